/* The end of a native stream: enter(), leave(), close() and destroy_native() of lib/streams/timeline.cpp, in all
 * interleavings of a few threads.
 *
 * Each thread knows the timeline for a while and makes calls on the stream; any of them may close it, also from within
 * a call, and more than one may. Whoever is the last to forget the timeline runs its destructor.
 *
 * Each of these breaks one rule that the source states, and then there is an error:
 * mutation: NOT_EXCHANGED        destroy_native() reads `destroyed_` and then sets it
 * mutation: LOOKS_BEFORE_COUNTS  enter() looks whether the stream is closed before it counts
 * mutation: REFUSED_JUST_LEAVES  a call that is refused does not look whether it was the last to leave
 * mutation: CLOSE_IN_TWO_STEPS   close() looks for calls and then closes
 */

#define THREADS 3
#define CLOSED 8

byte calls;
bool destroyed;

/* What is true, beside what the timeline says. */
byte references = THREADS;
byte inside;         /* calls that may touch the native stream */
bool ended;          /* a close() has returned */
byte destructions;   /* of the native stream */
byte begins = 4;     /* how many calls there may still be */

inline destroy_native() {
#ifdef NOT_EXCHANGED
  seen = destroyed;
  destroyed = true;
#else
  atomic { seen = destroyed; destroyed = true };
#endif
  if
  :: !seen -> atomic { assert(inside == 0); destructions++; assert(destructions == 1) }
  :: else -> skip
  fi;
  seen = 0
}

inline leave() {
  atomic { seen = calls; calls-- };
  if
  :: seen == (CLOSED | 1) -> destroy_native()
  :: else -> seen = 0
  fi
}

inline enter() {
#ifdef LOOKS_BEFORE_COUNTS
  seen = calls;
  calls++;
#else
  atomic { seen = calls; calls++ };
#endif
  if
  :: (seen & CLOSED) == 0 -> atomic { seen = 0; is_inside = true; inside++ }
  :: else ->
     seen = 0;
#ifdef REFUSED_JUST_LEAVES
     calls--
#else
     leave()
#endif
  fi
}

inline close() {
#ifdef CLOSE_IN_TWO_STEPS
  seen = calls;
  calls = calls | CLOSED;
#else
  atomic { seen = calls; calls = calls | CLOSED };
#endif
  if
  :: seen == 0 -> destroy_native()
  :: else -> seen = 0
  fi;
  ended = true
}

active [THREADS] proctype thread() {
  byte seen;
  bool is_inside, was_ended;
  do
  :: atomic { !is_inside && begins > 0 -> begins--; was_ended = ended };
     enter();
     atomic { assert(!(is_inside && was_ended)); was_ended = false }
  :: is_inside -> /* it touches the stream */
     atomic { assert(destructions == 0); is_inside = false; inside-- };
     leave()
  :: !ended -> close()
  :: !is_inside -> break
  od;
  atomic { references--; seen = references == 0 };
  if
  :: seen -> /* ~Timeline(): what is closed has been destroyed by then */
     assert((calls & ~CLOSED) == 0 && (calls == 0 || destructions == 1));
     destroy_native()
  :: else -> skip
  fi
}

/* When nothing more can happen, the native stream is gone. */
active proctype judge() {
  timeout -> assert(references == 0 && destructions == 1)
}
