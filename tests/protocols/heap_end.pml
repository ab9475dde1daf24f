/* The end of a heap: lib/heap/heap_core.cpp, in all interleavings of a few threads.
 *
 * One HeapCore serves one heap after the other. The owner opens a heap, takes blocks, hands them to two threads that
 * release them, and closes the heap meanwhile. A stream may use a block that is released; the block then waits on the
 * stream, until the program collects (once) or the library's watcher does, and may be found in use by another stream
 * then. While the heap is open each cache counts what comes back; close() adds that up, and from then on all count how
 * many are still out: who brings that to 0 ends the heap.
 *
 * A section under a cache's lock is one step here (d_step; locks.pml has the lock), and so is what is done to the count of
 * those that are out. Those under the heap's mutex are not.
 *
 * Each of these breaks one rule that the source states, and then there is an error:
 * mutation: CLOSED_SET_AFTER       close() sets the flag after it has been to the caches
 * mutation: CLOSE_LOOKS_LATER      close() looks for blocks in flight after it has counted those that are out
 * mutation: CLOSED_READ_BEFORE     cache_or_free() reads the flag before it takes the cache's lock
 * mutation: COUNTED_BEFORE_FREED   cache_or_free() counts a block before its surplus is freed
 * mutation: COUNTED_TWICE          cache_or_free() counts a block in its cache, too, when the heap is closed
 * mutation: PUSHED_AFTER           retire() pushes the block after it has unlocked the cache
 * mutation: ABANDON_WITHOUT_MUTEX  abandon_cache() frees without the heap's mutex
 */

#define HEAPS 2
#define BLOCKS 2 /* that each heap makes */
#define CACHES 2

/* The HeapCore. */
bool mutex, closed;
byte arena; /* of which heap; 0: the object serves none */
byte made[CACHES], returned[CACHES], kept[CACHES];
short out; /* since close(): blocks that are not back */
byte in_flight;
bool pooled = true;

/* Around it. */
byte handed_out[HEAPS + 1]; /* by the store of each heap's arena */
byte ended;                 /* heaps; so also: up to which heap the arenas are gone */
chan hand = [BLOCKS] of { byte };           /* from the owner to who releases; a block is told by its heap */
chan stream = [HEAPS * BLOCKS] of { byte }; /* blocks that wait on it */
bool watched;                               /* the watcher looks at the stream */
byte requeues = 1, collects = 1, abandons = 1; /* how often that may still happen */

#define LOCALS byte block, mine, c, count, heap_ending; short unreturned; bool was_closed, last
#define forget_locals \
  atomic { c = 0; unreturned = 0; count = 0; heap_ending = 0; last = false; was_closed = false }

inline lock_mutex() { atomic { !mutex -> mutex = true } }

inline free_to_store(heap, number) {
  d_step {
    assert(number == 0 || heap > ended);
    handed_out[heap] = handed_out[heap] - number
  }
}

inline end_heap() {
  lock_mutex();
  do
  :: c < CACHES -> d_step { count = count + kept[c]; kept[c] = 0; c++ }
  :: else -> break
  od;
  free_to_store(arena, count);
  d_step { heap_ending = arena; arena = 0; mutex = false };
  d_step { /* the arena may end here, and its store wants all back */
    assert(heap_ending != 0 && handed_out[heap_ending] == 0);
    ended = heap_ending
  };
  pooled = true
}

inline count_returned() {
#ifndef CLOSED_READ_BEFORE
  was_closed = closed;
#endif
#ifdef COUNTED_TWICE
  returned[mine]++
#else
  if
  :: !was_closed -> returned[mine]++
  :: else -> skip
  fi
#endif
}

/* `deferred`: the block has waited on a stream. */
inline cache_or_free(deferred) {
#ifdef CLOSED_READ_BEFORE
  was_closed = closed;
#endif
  if
  :: d_step {
       kept[mine] == 0 -> /* there is room */
       assert(arena == block); /* it is asked how much a cache may keep */
       in_flight = in_flight - deferred;
       kept[mine] = 1;
       count_returned()
     }
  :: d_step { /* it is surplus */
       assert(arena == block);
       in_flight = in_flight - deferred;
#ifdef COUNTED_BEFORE_FREED
       count_returned()
#endif
     };
     free_to_store(block, 1);
#ifndef COUNTED_BEFORE_FREED
     d_step { count_returned() }
#endif
  fi;
  block = 0;
  if
  :: was_closed -> d_step { out--; last = out == 0 }
  :: else -> skip
  fi;
  if
  :: last -> end_heap()
  :: else -> skip
  fi;
  forget_locals
}

inline retire(released) {
  d_step {
    in_flight = in_flight + released;
    was_closed = closed;
    assert(!was_closed || arena == block); /* it is asked for its device */
#ifndef PUSHED_AFTER
    stream ! block
#endif
  };
#ifdef PUSHED_AFTER
  stream ! block;
#endif
  block = 0;
  if
  :: was_closed -> d_step { watched = true; was_closed = false }
  :: else -> skip
  fi
}

inline reclaim() {
  if
  :: atomic { requeues > 0 -> requeues-- }; retire(0) /* another stream uses it, too */
  :: cache_or_free(1)
  fi
}

active proctype owner() {
  LOCALS;
  byte heap = 1;
  do
  :: heap <= HEAPS ->
     atomic { pooled -> pooled = false };
     lock_mutex();
     d_step { /* open() */
       made[0] = 0; made[1] = 0; returned[0] = 0; returned[1] = 0;
       out = 0;
       arena = heap;
       closed = false;
       mutex = false
     };
     do
     :: count < BLOCKS ->
        d_step {
          assert(arena == heap);
          if
          :: kept[mine] > 0 -> kept[mine]--
          :: else -> handed_out[heap]++
          fi;
          made[mine]++;
          hand ! heap;
          count++
        }
     :: else -> break
     od;
     forget_locals;
     lock_mutex(); /* close() */
#ifndef CLOSED_SET_AFTER
     closed = true;
#endif
     do
     :: c < CACHES -> d_step { unreturned = unreturned + made[c] - returned[c]; c++ }
     :: else -> break
     od;
#ifdef CLOSED_SET_AFTER
     closed = true;
#endif
     c = 0;
     d_step {
#ifndef CLOSE_LOOKS_LATER
       was_closed = in_flight != 0;
#endif
       mutex = false
     };
     d_step { out = out + unreturned; last = out == 0 };
     if
     :: last -> end_heap()
     :: else ->
#ifdef CLOSE_LOOKS_LATER
        d_step { assert(arena == heap); was_closed = in_flight != 0 };
#endif
        if
        :: was_closed -> watched = true
        :: else -> skip
        fi
     fi;
     forget_locals;
     heap++
  :: else -> break
  od
}

/* The program's other threads: they release and collect, and one ends and leaves its cache. */
active [2] proctype thread() {
  LOCALS;
  mine = _pid % CACHES;
end:
  do
  :: hand ? block ->
     if
     :: retire(1)
     :: cache_or_free(0)
     fi
  :: atomic { collects > 0 && nempty(stream) -> collects--; stream ? block }; reclaim()
  :: atomic { abandons > 0 && kept[mine] > 0 -> abandons-- };
#ifndef ABANDON_WITHOUT_MUTEX
     lock_mutex();
#endif
     d_step { count = kept[mine]; kept[mine] = 0; heap_ending = arena };
     free_to_store(heap_ending, count);
#ifndef ABANDON_WITHOUT_MUTEX
     mutex = false;
#endif
     forget_locals
  od
}

/* The library's own thread: forgets the stream when nothing waits there. */
active proctype watcher() {
  LOCALS;
end:
  do
  :: atomic { watched && nempty(stream) -> stream ? block }; reclaim()
  :: atomic { watched && empty(stream) -> watched = false }
  od
}

/* When nothing more can happen, every heap has ended. */
active proctype judge() {
  timeout -> assert(ended == HEAPS && in_flight == 0 && pooled)
}
