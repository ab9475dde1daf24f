/* What a heap may have: Quota of lib/heap/quota.hpp and who takes more from it for a moment, ThreadCache::take_from(),
 * take_from_store(), take_from_others() and count_taken() of lib/heap/heap_core.cpp, against who looks for memory,
 * take_from_anywhere() of lib/heap/allocate.cpp, in all interleavings. moving.pml has the places of blocks.
 *
 * In one case two threads of a heap that may have three blocks, and has one, ask for room for a list of two that the
 * depot does not have, some times; a third wants the one block that lies in the store, and there is room for it. In the
 * other the heap may have as many as it has and one more, and the store's block is as large as two: a thread takes it,
 * finds that it is more than the heap may have, and gives it back, while a thread of another heap, which may have all
 * there is, looks for it. Neither may say that there is none.
 *
 * Each of these breaks one rule that the source states, and then there is an error:
 * mutation: NOT_AMONG_MOVING       who takes more than he may need is not among the moving blocks
 * mutation: ENDS_BEFORE_IT_GIVES   who took too much ends before he gives it back
 * mutation: ROOM_READ_TWICE        who found no room, and nothing that moves, looks only for room again
 * mutation: REFUSED_FORGOTTEN      who was refused on the way does not look whether there is room now
 * mutation: CANCELLED_WITH_BLOCK   a block that goes back to the store since the quota refuses it is no arrival
 */

#define LIMIT 3
byte taken;
byte turns;
byte under_way, arrivals;
bool in_store = true;

#define has_room (taken < LIMIT)

/* Quota::take(); sets `may`. */
inline take(bytes) {
  turns++;
  d_step {
    may = taken + bytes <= LIMIT;
    taken = taken + (may -> bytes : 0)
  }
}
inline give(bytes) { taken = taken - bytes }

inline begin() {
#ifndef NOT_AMONG_MOVING
  under_way++
#else
  skip
#endif
}
inline cancel() {
#ifndef NOT_AMONG_MOVING
  under_way--
#else
  skip
#endif
}
inline arrive() { arrivals++; cancel() }

/* So many bytes more than there are, as it turns out. */
inline take_in_vain(bytes) {
  begin();
  take(bytes);
#ifdef ENDS_BEFORE_IT_GIVES
  cancel();
#endif
  if
  :: may -> give(bytes)
  :: else -> skip
  fi;
#ifndef ENDS_BEFORE_IT_GIVES
  cancel()
#endif
}

inline take_from_store() {
  begin();
  take(1);
  if
  :: may ->
     d_step { found = in_store; in_store = false };
     if
     :: found -> skip
     :: else -> give(1)
     fi
  :: else -> refused = true
  fi;
  cancel()
}

proctype lister() {
  bool may;
  take_in_vain(2);
  take_in_vain(2)
}

/* Or it says that there is no room. */
inline is_full() {
  turns_before = turns;
#ifdef ROOM_READ_TWICE
  assert(has_room);
#else
  if
  :: under_way != 0 -> skip
  :: else ->
     if
     :: has_room -> skip
     :: else -> assert(turns != turns_before)
     fi
  fi;
#endif
  turns_before = 0
}

/* take_from_anywhere() of the heap. */
proctype seeker() {
  bool may, found, refused;
  byte arrivals_before, turns_before;
  do
  :: found -> break
  :: else ->
     arrivals_before = arrivals;
     take_in_vain(2); /* take_cached() */
     if
     :: has_room -> skip
     :: else -> skip /* flush_caches() */
     fi;
     if
     :: !has_room -> /* over_quota */
        if
        :: under_way != 0 -> skip
        :: else ->
           if
           :: arrivals != arrivals_before -> skip
           :: else -> is_full()
           fi
        fi
     :: else ->
        refused = false;
        take_from_store();
        if
        :: !found ->
           begin(); /* take_from_others() */
           take(1);
           if
           :: may -> give(1)
           :: else -> refused = true
           fi;
           cancel();
           take_from_store()
        :: else -> skip
        fi;
        if
        :: found || under_way != 0 -> skip
        :: else ->
           if
           :: arrivals != arrivals_before -> skip
           :: else ->
#ifndef REFUSED_FORGOTTEN
              assert(refused);
              is_full()
#else
              assert(false)
#endif
           fi
        fi
     fi;
     d_step { arrivals_before = 0; refused = false; may = false }
  od
}

/* take_from_store(), and a block that is larger than what was asked for. */
proctype asker() {
  bool may;
  begin();
  take(1);
  assert(may);
  d_step { may = in_store; in_store = false };
  if
  :: may ->
     take(1); /* count_taken() */
     assert(!may);
     in_store = true;
     give(1);
#ifdef CANCELLED_WITH_BLOCK
     cancel()
#else
     arrive()
#endif
  :: else -> give(1); cancel()
  fi
}

/* Of another heap. */
proctype other_seeker() {
  bool found;
  byte arrivals_before;
  do
  :: found -> break
  :: else ->
     arrivals_before = arrivals;
     d_step { found = in_store; in_store = false };
     if
     :: found || under_way != 0 -> skip
     :: else -> assert(arrivals != arrivals_before)
     fi;
     arrivals_before = 0
  od
}

init {
  atomic {
    if
    :: taken = 1; run lister(); run lister(); run seeker()
    :: taken = 2; run asker(); run other_seeker()
    fi
  }
}
