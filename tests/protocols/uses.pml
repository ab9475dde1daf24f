/* Which streams use a block: reserve(), note(), forget_done() and next_open() of lib/streams/uses.cpp, and the flag
 * `used` that Submission::use() sets, in all interleavings of a few threads.
 *
 * Two threads have the block used by two streams each, one of which they share; one waits for all uses that it finds,
 * one forgets uses that are done. A section under the lock of the uses is one step here (d_step). Reads and writes are
 * not told apart, a batch has one slot, and a thread that is out of memory does nothing.
 *
 * Each of these breaks one rule that the source states, and then there is an error:
 * mutation: FORGET_IGNORES_UNDER_WAY   forget_done() takes a slot for vacant though a use of it is under way
 * mutation: RESERVE_IGNORES_UNDER_WAY  reserve() does so
 * mutation: RESERVE_TAKES_OPEN         reserve() takes a slot with an open use
 * mutation: USED_BEFORE_RESERVED       the flag is set before the slot is reserved
 * mutation: LAST_NOTED_STAYS           note() stores its position also where a later one is noted
 * mutation: POSITION_STAYS             a slot keeps its position when it changes streams
 */

#define STREAMS 3
#define SLOTS 3

/* The block. A slot is vacant while it names no stream; streams count from 1. */
bool used;
byte made = 1; /* slots */
byte stream_of[SLOTS], position_of[SLOTS], under_way[SLOTS];

/* The streams. */
byte issued[STREAMS + 1], completed[STREAMS + 1];

/* What is true, beside what the block says. */
byte noted[STREAMS + 1]; /* the last position whose call has returned */
byte begun;              /* calls that are under way, and whose work the device may be given */
byte begins = 3, looks = 1, waits = 1;

#define is_open(slot) (stream_of[slot] != 0 && completed[stream_of[slot]] < position_of[slot])

/* Within a d_step. */
inline find_slot(stream) {
  at = 0;
  do
  :: at < made && stream_of[at] != stream -> at++
  :: else -> break
  od
}

active [2] proctype user() {
  byte stream, position, at;
end:
  do
  :: atomic {
       begins > 0 -> begins--;
       if
       :: stream = 1 + _pid
       :: stream = 2 + _pid
       fi
     };
#ifdef USED_BEFORE_RESERVED
     used = true;
#endif
     d_step { /* reserve() */
       find_slot(stream);
       if
       :: at == made ->
          at = 0;
          do
#if defined(RESERVE_IGNORES_UNDER_WAY)
          :: at < made && is_open(at) -> at++
#elif defined(RESERVE_TAKES_OPEN)
          :: at < made && under_way[at] != 0 -> at++
#else
          :: at < made && (under_way[at] != 0 || is_open(at)) -> at++
#endif
          :: else -> break
          od
       :: else -> skip
       fi;
       if
       :: at == made -> /* a new one, behind the first */
          do
          :: at > 1 ->
             stream_of[at] = stream_of[at - 1];
             position_of[at] = position_of[at - 1];
             under_way[at] = under_way[at - 1];
             at--
          :: else -> break
          od;
          made++;
          stream_of[at] = 0;
          position_of[at] = 0;
          under_way[at] = 0
       :: else -> skip
       fi;
       if
       :: stream_of[at] != stream ->
          stream_of[at] = stream;
#ifndef POSITION_STAYS
          position_of[at] = 0
#endif
       :: else -> skip
       fi;
       under_way[at]++;
       at = 0;
       begun++
     };
#ifndef USED_BEFORE_RESERVED
     used = true;
#endif
     assert(used);
     if
     :: d_step { issued[stream]++; position = issued[stream] }
     :: true -> skip /* the driver refuses the work */
     fi;
     d_step { /* note() */
       assert(used);
       find_slot(stream);
       assert(at < made && under_way[at] > 0);
       under_way[at]--;
#ifdef LAST_NOTED_STAYS
       position_of[at] = position;
#else
       if
       :: position_of[at] < position -> position_of[at] = position
       :: else -> skip
       fi;
#endif
       if
       :: noted[stream] < position -> noted[stream] = position
       :: else -> skip
       fi;
       begun--;
       at = 0;
       stream = 0;
       position = 0
     }
  od
}

active proctype forgetter() {
  byte at;
end:
  do
  :: d_step { /* forget_done() */
       used && looks > 0 -> looks--;
       do
#ifdef FORGET_IGNORES_UNDER_WAY
       :: at < made && !is_open(at) -> stream_of[at] = 0; at++
#else
       :: at < made && under_way[at] == 0 && !is_open(at) -> stream_of[at] = 0; at++
#endif
       :: else -> break
       od;
       if
       :: at == made ->
          assert(begun == 0);
          at = 1;
          do
          :: at <= STREAMS -> assert(noted[at] <= completed[at]); at++
          :: else -> break
          od;
          used = false
       :: else -> skip
       fi;
       at = 0
     }
  od
}

active proctype waiter() {
  byte index, stream, position, before[STREAMS + 1];
end:
  do
  :: d_step {
       waits > 0 -> waits--;
       before[1] = noted[1]; before[2] = noted[2]; before[3] = noted[3]
     };
     do
     :: d_step { /* next_open() */
          do
          :: index < made && !is_open(index) -> index++
          :: else -> break
          od;
          if
          :: index < made -> stream = stream_of[index]; position = position_of[index]; index++
          :: else -> skip
          fi
        };
        if
        :: stream == 0 -> break
        :: else ->
           assert(position <= issued[stream]); /* or it waits for ever */
           d_step { completed[stream] >= position -> stream = 0; position = 0 }
        fi
     od;
     atomic {
       assert(before[1] <= completed[1] && before[2] <= completed[2] && before[3] <= completed[3]);
       before[1] = 0; before[2] = 0; before[3] = 0; index = 0
     }
  od
}

active proctype device() {
end:
  do
  :: completed[1] < issued[1] -> completed[1]++
  :: completed[2] < issued[2] -> completed[2]++
  :: completed[3] < issued[3] -> completed[3]++
  od
}
