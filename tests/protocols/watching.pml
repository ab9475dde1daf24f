/* Work that is left for the library's own thread: HeapCore::retire() with is_watched(), wait_to_be_freed() with watch(),
 * free_waiting_device_blocks() and Watcher::still_needed() of lib/streams/watcher.cpp, in all interleavings.
 *
 * Two threads leave a piece of work each. One asks first whether the device is watched already, as who is in a hurry
 * does; the other always calls watch(). A third finds work, has it in its hands for a while, and puts it back, since the
 * device is not done. A graph lets go of a block, in a place that belongs to no device and does not count as its work,
 * and calls watch(), too. The watcher looks there first, then at the device, and forgets that when nothing is left and
 * nobody has asked since it began to look.
 *
 * Each of these breaks one rule that the source states, and then there is an error:
 * mutation: ASKS_BEFORE_IT_LEAVES  who is in a hurry asks whether the device is watched before the work is there
 * mutation: ONE_LOOK               the watcher looks, and then says that the device is not watched any more
 * mutation: NOT_IN_HANDS           work that another thread has in its hands does not count
 * mutation: FORGETS_WHO_ASKED      who asks while the watcher looks is not remembered
 */

bool watched;     /* DeviceCore::watched */
bool in_list;     /* Watcher::watched_ */
bool mutex;
byte there;       /* pieces of work where the watcher finds them */
byte in_hands;    /* and in the third thread's hands */
byte left;        /* the count of all that are not done */
bool released;    /* a block that a graph has let go of */
bool asked;       /* Watcher::Watched::asked */
byte rounds = 4;  /* of the watcher */

#ifdef NOT_IN_HANDS
#define HAS_WORK (there != 0)
#else
#define HAS_WORK (left != 0)
#endif

#ifdef FORGETS_WHO_ASKED
#define ASKED false
#else
#define ASKED asked
#endif

inline lock() { atomic { !mutex -> mutex = true } }
inline unlock() { mutex = false }

inline watch() {
  lock();
  in_list = true;
  asked = true;
  watched = true;
  unlock()
}

inline leave_work() {
  left++;
  there++
}

active proctype hurried() {
  bool seen;
#ifdef ASKS_BEFORE_IT_LEAVES
  seen = watched;
  leave_work();
#else
  leave_work();
  seen = watched;
#endif
  if
  :: !seen -> watch()
  :: else -> skip
  fi
}

active proctype careful() {
  leave_work();
  watch()
}

active proctype graph() {
  released = true;
  watch()
}

active proctype handler() {
  if
  :: atomic { there != 0 -> in_hands = there; there = 0 };
     atomic { there = there + in_hands; in_hands = 0 }
  :: true -> skip
  fi
}

active proctype watcher() {
  do
  :: in_list && rounds > 0 ->
     rounds--;
     lock();
     asked = false;
     unlock();
     released = false; /* collect() takes what graphs let go of, */
     if /* and asks: the device is done, or not yet */
     :: atomic { left = left - there; there = 0 }
     :: true -> skip
     fi;
     lock();
     if
#ifndef FORGETS_WHO_ASKED
     :: asked -> skip
#endif
     :: HAS_WORK && !ASKED -> skip
     :: !HAS_WORK && !ASKED ->
        watched = false;
#ifdef ONE_LOOK
        in_list = false
#else
        if
        :: HAS_WORK -> watched = true
        :: else -> in_list = false
        fi
#endif
     fi;
     unlock()
  :: timeout -> break
  od
}

/* When nothing more can happen, what is left is watched. */
active proctype judge() {
  timeout -> assert((left == 0 && !released) || in_list)
}
