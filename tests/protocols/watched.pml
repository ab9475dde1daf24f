/* Stores that others see late: is_watched() of lib/streams/watcher.hpp against still_needed() of watcher.cpp, and what
 * Timeline::has_work() reads there, `retired_` and `waiting_` (absorb_retired() and take_done() of
 * lib/streams/timeline_waiting.cpp), in all interleavings. watching.pml has more ways to leave work, with stores that
 * all see at once.
 *
 * Each thread's stores go through a queue of its own and are seen by the others, in that order, some time later; loads
 * are not put off. A fence waits until the thread's queue is empty, and so does an exchange with release. To take a lock
 * waits for nothing (it is an acquire), giving it back is a store. The compare-exchange by which a block comes to
 * `retired_` is a store here, too, for all that release says of what is read after it. These two fences are the only
 * ones in the library, and everything else is ordered by release and acquire, or by locks.
 *
 * Two threads leave a block each and ask whether the device is watched. Another collects: what it finds done it caches,
 * or leaves again, since a second stream uses it. The watcher collects, and forgets the device when nothing is left. The
 * device is done whenever it likes.
 *
 * Each of these breaks one rule that the source states, and then there is an error:
 * mutation: NO_FENCE_LEAVING     is_watched() has no fence
 * mutation: NO_FENCE_WATCHING    still_needed() has no fence
 * mutation: ONE_LOOK             still_needed() does not look a second time
 * mutation: LOOKS_FIRST          still_needed() looks twice, and then says that the device is not watched
 * mutation: WAITING_SET_AFTER    absorb_retired() says that blocks wait when it has taken them
 * mutation: TAKEN_RELAXED        take_all() releases nothing
 * mutation: WAITING_READ_FIRST   has_work() reads `waiting_` before `retired_`
 */

#define THREADS 4
#define FINDER 2
#define WATCHER 3

/* In memory. */
#define WATCHED 0
#define RETIRED 1 /* a bit for each block */
#define WAITING 2
#define MUTEX 3    /* of the Watcher */
#define TIMELINE 4 /* the Timeline's mutex */
byte memory[5];
chan stores[THREADS] = [4] of { byte, byte }; /* that the thread has made, and nobody has seen: where and what */

/* Under these mutexes, so that nobody sees them late. */
bool in_list, asked;
byte blocks; /* Timeline::blocks_ */

byte left = 3; /* blocks that are not back; not what the source has */

#define store(where, what) stores[me] ! where, what
#define fence() empty(stores[me])
#define lock(where) atomic { memory[where] == 0 -> memory[where] = 1 }
#define unlock(where) store(where, 0)

/* Seen from the thread itself. One store to `waiting_` at most is in the queue. */
inline read_waiting() {
  if
  :: atomic { stores[me] ?? [WAITING, 1] -> work = work || 1 }
  :: atomic { stores[me] ?? [WAITING, 0] -> skip }
  :: atomic { else -> work = work || memory[WAITING] != 0 }
  fi
}
inline read_retired() { work = work || memory[RETIRED] != 0 }

inline has_work() {
  work = false;
#ifdef WAITING_READ_FIRST
  read_waiting();
  read_retired()
#else
  read_retired();
  read_waiting()
#endif
}

inline leave(block) {
  store(RETIRED, block);
#ifndef NO_FENCE_LEAVING
  fence();
#endif
  if
  :: memory[WATCHED] != 0 -> skip
  :: else -> /* watch() */
     lock(MUTEX);
     in_list = true;
     asked = true;
     store(WATCHED, 1);
     unlock(MUTEX)
  fi
}

/* Takes what is done into `hands`. */
inline collect() {
  has_work();
  if
  :: work ->
     lock(TIMELINE);
     if /* absorb_retired() */
     :: memory[RETIRED] != 0 ->
#ifndef WAITING_SET_AFTER
        store(WAITING, 1);
#endif
#ifndef TAKEN_RELAXED
        fence();
#endif
        d_step { blocks = blocks | memory[RETIRED]; memory[RETIRED] = 0 };
#ifdef WAITING_SET_AFTER
        store(WAITING, 1)
#endif
     :: else -> skip
     fi;
     if /* the device is done with both, with one, or with none */
     :: atomic { hands = blocks; blocks = 0 }
     :: atomic { hands = blocks & 1; blocks = blocks - hands }
     :: atomic { hands = blocks & 2; blocks = blocks - hands }
     :: true -> skip
     fi;
     store(WAITING, (blocks != 0 -> 1 : 0)); /* take_done() */
     unlock(TIMELINE)
  :: else -> skip
  fi;
  work = false
}

inline cache() { d_step { left = left - hands; hands = 0 } }

active [2] proctype leaver() {
  byte me = _pid;
  leave(1 + _pid)
}

active proctype finder() {
  byte me = FINDER, hands;
  bool work;
  collect();
  if
  :: cache()
  :: hands == 1 || hands == 2 -> leave(hands)
  fi
}

active proctype watcher() {
  byte me = WATCHER, hands;
  bool work;
end:
  do
  :: atomic { in_list && memory[MUTEX] == 0 -> memory[MUTEX] = 1 };
     asked = false;
     unlock(MUTEX);
     collect();
     cache();
     lock(MUTEX);
     if
     :: asked -> skip
     :: else -> /* still_needed() */
        has_work();
        if
        :: work -> skip
        :: else ->
#ifdef LOOKS_FIRST
           has_work();
#endif
           store(WATCHED, 0);
#ifndef NO_FENCE_WATCHING
           fence();
#endif
#if !defined(ONE_LOOK) && !defined(LOOKS_FIRST)
           has_work();
#endif
           if
           :: work -> store(WATCHED, 1)
           :: else -> in_list = false
           fi
        fi
     fi;
     work = false;
     unlock(MUTEX)
  od
}

#define see(thread) \
  atomic { \
    stores[thread] ? where, what -> \
    memory[where] = (where == RETIRED -> memory[where] | what : what); \
    where = 0; \
    what = 0 \
  }

/* The processors. */
active proctype machine() {
  byte where, what;
end:
  do
  :: see(0)
  :: see(1)
  :: see(FINDER)
  :: see(WATCHER)
  od
}

/* When nothing more can happen, what is left is watched. */
active proctype judge() {
  timeout -> assert((left == 0 || in_list) && in_list == memory[WATCHED])
}
