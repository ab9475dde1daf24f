/* Free blocks on their way: MovingBlocks and MemorySearch of lib/blocks/moving_blocks.hpp with the places between which
 * blocks move: take_from_anywhere() of lib/heap/allocate.cpp, ArenaCore::flush() and its keepers, take_cached(),
 * take_from_store() and abandon_cache() of lib/heap/heap_core.cpp, Depot of lib/heap/depot.cpp, ThreadCache::take_from()
 * and give_list(), Timeline::take_done(), in all interleavings.
 *
 * There is one free list of blocks, in one place at a time or in one thread's hands. One thread moves it between its
 * cache, the depot and the store, or has the depot give it up for another list; one collects it from a stream and caches
 * it, or finds it in use by a second stream and leaves it there again; one flushes. A fourth looks for memory, at every
 * place once: where it finds nothing it must know that something moved, since the list is free all the time.
 *
 * Locks are taken and given back in steps of their own. Only the last look at each place is here; quotas are not. The
 * look of who needs memory ends with what it finds, which it would carry to the store.
 *
 * Each of these breaks one rule that the source states, and then there is an error:
 * mutation: BEGUN_AFTER           a list counts as moving only after the lock of its place is given back
 * mutation: ENDED_BEFORE          a list counts as moving no more before it is in the next place
 * mutation: ARRIVAL_AFTER         an arrival is counted after the list counts as moving no more
 * mutation: ARRIVALS_IGNORED      who looks asks only what moves now
 * mutation: MOVES_IGNORED         who looks does not ask what came to the depot, or went
 * mutation: MOVES_COUNTED_AFTER   Depot::pop() counts after its first list is another one
 * mutation: KEEPER_AFTER          take_cached() makes the cache a keeper after it has been to the depot
 * mutation: GIVEN_AFTER           a list goes to the depot after the cache's lock is given back
 * mutation: WAITING_CLEARED_FIRST take_done() says that nothing waits before the list counts as moving
 * mutation: FLUSHED_UNLOCKED      Depot::flush() does not take the lock of the class
 */

#define MINE 0  /* the first thread's cache */
#define OTHER 1 /* the collecting one's */

/* Places, each with its lock. */
bool in_stream, in_depot, in_store, in_cache[2];
bool waiting; /* Timeline::has_work() */
bool stream_lock, depot_lock, store_lock, cache_lock[2];
bool keeper[2], keepers_mutex;

byte under_way, arrivals, moves;
byte hands; /* that have the list; not what the source has */

#define when(condition) if :: !(condition) -> skip :: else -> /* up to `fi` */

inline lock(l) { atomic { !l -> l = true } }
inline unlock(l) { l = false }

/* `place` is empty from now on. */
inline take_out(place) {
  d_step { assert(place && hands == 0); place = false; hands++ }
}
inline put(place) {
  d_step { assert(!place && hands == 1); place = true; hands-- }
}

inline begin() { under_way++ }
inline arrive() {
#ifdef ARRIVAL_AFTER
  under_way--;
  arrivals++
#else
  arrivals++;
  under_way--
#endif
}

/* ~MovingBlocks() after the list is in the store. */
inline to_store() {
#ifdef ENDED_BEFORE
  arrive();
#endif
  lock(store_lock);
  put(in_store);
  unlock(store_lock);
#ifndef ENDED_BEFORE
  arrive()
#endif
}

/* Depot::pop(), under the lock of the class. */
inline pop() {
#ifdef MOVES_COUNTED_AFTER
  take_out(in_depot);
  moves++
#else
  moves++;
  take_out(in_depot)
#endif
}

/* HeapCore::take_cached() with ThreadCache::take_from(). */
inline take_cached() {
  lock(cache_lock[MINE]);
#ifndef KEEPER_AFTER
  keeper[MINE] = true;
#endif
  when(in_depot)
    lock(depot_lock);
    when(in_depot) pop(); moving = true fi;
    unlock(depot_lock);
    when(moving) put(in_cache[MINE]); moving = false fi
  fi;
#ifdef KEEPER_AFTER
  keeper[MINE] = true;
#endif
  unlock(cache_lock[MINE])
}

/* The list in the cache goes to the depot, or for want of room there to the store. */
inline give_list() {
  lock(cache_lock[MINE]);
  if
  :: in_cache[MINE] ->
     take_out(in_cache[MINE]);
     if
     :: true ->
#ifdef GIVEN_AFTER
        unlock(cache_lock[MINE]);
#endif
        lock(depot_lock);
        put(in_depot);
        moves++;
        unlock(depot_lock);
#ifndef GIVEN_AFTER
        unlock(cache_lock[MINE])
#endif
     :: true ->
#ifdef BEGUN_AFTER
        unlock(cache_lock[MINE]);
        begin();
#else
        begin();
        unlock(cache_lock[MINE]);
#endif
        to_store()
     fi
  :: else -> unlock(cache_lock[MINE])
  fi
}

/* Another list comes to the depot from the thread's cache, which is a keeper for it, and the depot gives ours up. */
inline give_another() {
  lock(cache_lock[MINE]); /* it has a block put there */
  keeper[MINE] = true;
  unlock(cache_lock[MINE]);
  lock(cache_lock[MINE]);
  when(keeper[MINE] && in_depot)
    lock(depot_lock);
    when(in_depot) pop(); begin(); moving = true fi;
    unlock(depot_lock)
  fi;
  unlock(cache_lock[MINE]);
  when(moving) to_store(); moving = false fi
}

/* HeapCore::take_from_store() of more than one block. */
inline fetch() {
  begin();
  lock(store_lock);
  when(in_store) take_out(in_store); moving = true fi;
  unlock(store_lock);
  if
  :: moving ->
     lock(cache_lock[MINE]);
     put(in_cache[MINE]);
     keeper[MINE] = true;
     unlock(cache_lock[MINE]);
     arrive();
     moving = false
  :: else -> under_way-- /* cancel() */
  fi
}

proctype mover() {
  byte turns = 2;
  bool moving;
end:
  do
  :: turns > 0 ->
     turns--;
     if
     :: take_cached()
     :: give_list()
     :: give_another()
     :: fetch()
     fi
  :: else -> break
  od
}

proctype collector() {
  bool moving;
  lock(stream_lock);
  when(in_stream)
#ifdef WAITING_CLEARED_FIRST
    waiting = false;
#endif
#ifndef BEGUN_AFTER
    begin();
#endif
    take_out(in_stream);
    waiting = false;
    moving = true
  fi;
  unlock(stream_lock);
  when(moving)
#ifdef BEGUN_AFTER
    begin();
#endif
    if
    :: lock(cache_lock[OTHER]);
       put(in_cache[OTHER]);
       keeper[OTHER] = true;
       unlock(cache_lock[OTHER])
    :: atomic { put(in_stream); waiting = true } /* Timeline::retire() */
    fi;
    arrive()
  fi
}

inline flush_cache(c, listed) {
  when(listed)
    lock(cache_lock[c]);
    when(in_cache[c]) begin(); take_out(in_cache[c]); moving = true fi;
    keeper[c] = false;
    unlock(cache_lock[c])
  fi
}

/* ArenaCore::flush(), up to where it has the list in hands. */
inline flush() {
  lock(keepers_mutex);
  d_step { first = keeper[MINE]; second = keeper[OTHER] }; /* LockFreeStack::take_all() */
  flush_cache(MINE, first);
  flush_cache(OTHER, second);
  unlock(keepers_mutex);
  d_step { first = false; second = false };
  when(!moving && in_depot) /* Depot::flush() */
#ifndef FLUSHED_UNLOCKED
    lock(depot_lock);
#endif
    begin();
    d_step { moving = in_depot; hands = hands + in_depot; assert(hands <= 1); in_depot = false };
#ifndef FLUSHED_UNLOCKED
    unlock(depot_lock);
#endif
    when(!moving) arrive() fi
  fi
}

proctype flusher() {
  bool moving, first, second;
  flush();
  when(moving) to_store() fi
}

/* Under the place's lock. */
inline look(place) {
  when(place) take_out(place); moving = true fi
}

#ifdef ARRIVALS_IGNORED
#define ARRIVED false
#else
#define ARRIVED (arrivals != arrivals_before)
#endif
#ifdef MOVES_IGNORED
#define MOVED false
#else
#define MOVED (moves != moves_before)
#endif

/* Who needs memory. The list may be in any place when all this begins. */
init {
  byte arrivals_before, moves_before;
  bool moving, first, second;
  atomic {
    if
    :: in_stream = true; waiting = true
    :: in_cache[MINE] = true; keeper[MINE] = true
    :: in_depot = true
    :: in_store = true
    fi;
    run mover();
    run collector();
    run flusher()
  }
  do
  :: moving -> break
  :: else ->
     arrivals_before = arrivals;
     moves_before = moves;
     when(waiting) lock(stream_lock); look(in_stream); unlock(stream_lock) fi;
     when(!moving) flush() fi;
     when(!moving) lock(store_lock); look(in_store); unlock(store_lock) fi;
     when(!moving && under_way == 0) /* missed_some() */
       when(!ARRIVED) assert(MOVED) fi /* or it says that there is no memory */
     fi;
     d_step { arrivals_before = 0; moves_before = 0 }
  od
}
