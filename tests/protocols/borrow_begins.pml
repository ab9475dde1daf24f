/* How a BorrowMut begins beside a thread that launches a graph, or runs a list, that writes the block:
 * begin_untouched() in include/thole/borrow.hpp and start_borrow() in lib/api/buffer.cpp, against HeldUses and
 * Submission, in all interleavings.
 *
 * The launch needs no handle, so that nobody but these two keep it off the borrow. It holds a borrow of its own while
 * it submits; in that it takes a slot, sets `used`, enqueues, and notes the use's position in the slot. Whoever borrows
 * looks before it begins, waits for what it finds, and forgets what is done; and looks again when it has begun.
 *
 * Orders of memory are not part of this: each step is seen by all.
 *
 * Each of these breaks one rule that the source states, and then there is an error:
 * mutation: LOOKS_ONCE         start_borrow() does not look again when it has begun
 * mutation: UNTOUCHED_ONCE     begin_untouched() does not look again when it has begun
 * mutation: HOLDS_NOTHING      a launch asks for borrows, and holds none while it submits
 * mutation: USED_LATE          a launch ends its borrow before it says that the block is used
 * mutation: FORGETS_RESERVED   what is forgotten includes the slot of a call that is under way
 */

#define HOLDER 1

byte word;        /* borrows: 0, or HOLDER for one that writes */
bool used;        /* as in BlockHead */
bool reserved;    /* the slot is a call's that is under way */
byte open_uses;   /* noted in slots, whether or not the device has done them */
byte device_work; /* enqueued, not done */
bool writing;     /* a BorrowMut lives */
byte launches = 2, borrows = 3;

#define judge() assert(!writing || device_work == 0)
#define begins() word == 0 -> word = HOLDER

/* What any_open() and query() say: the device's answer for what is noted, and "open" for a call under way. */
#define in_flight (reserved || (open_uses != 0 && device_work != 0))

active [2] proctype launcher() {
  bool held;
end:
  do
  :: atomic { launches > 0 -> launches-- };
#ifdef HOLDS_NOTHING
     if
     :: word == 0 -> held = true
     :: else -> held = false
     fi;
#else
     if
     :: atomic { begins(); held = true }
     :: word != 0 -> held = false
     fi;
#endif
     if
     :: held ->
        atomic { !reserved -> reserved = true }; /* a slot each; one is enough to count */
#ifndef USED_LATE
        used = true;
#endif
        d_step { device_work++; judge() };
        d_step { open_uses++; reserved = false };
#ifdef USED_LATE
        word = 0;
        used = true;
#else
#ifndef HOLDS_NOTHING
        word = 0;
#endif
#endif
        held = false
     :: else -> skip
     fi
  od
}

active proctype borrower() {
  do
  :: borrows > 0 ->
     borrows--;
     /* begin_untouched() */
     if
     :: !used ->
        if
        :: atomic { begins() };
#ifndef UNTOUCHED_ONCE
           if
           :: used -> word = 0; goto slowly
           :: else -> skip
           fi;
#endif
           goto borrowed
        :: word != 0 -> skip
        fi
     :: used -> skip
     fi;
slowly:
     /* start_borrow() */
     do
     :: !in_flight ->
        /* forget_done(), under the lock of the slots */
        atomic {
          if
#ifdef FORGETS_RESERVED
          :: device_work == 0 -> used = false; open_uses = 0
#else
          :: device_work == 0 && !reserved -> used = false; open_uses = 0
#endif
          :: else -> skip
          fi
        };
        if
        :: atomic { begins() };
#ifdef LOOKS_ONCE
           goto borrowed
#else
           if
           :: in_flight -> word = 0 /* and waits again */
           :: else -> goto borrowed
           fi
#endif
        :: word != 0 -> goto refused
        fi
     :: in_flight -> skip /* asks again */
     od;
borrowed:
     skip;
     d_step { writing = true; judge() };
     d_step { writing = false; word = 0 };
refused:
     skip
  :: else -> break
  od
}

active proctype device() {
end:
  do
  :: d_step { device_work > 0 -> device_work-- }
  od
}
