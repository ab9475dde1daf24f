/* The order of positions, tickets and completions: lib/streams/timeline.cpp and timeline_waiting.cpp, in all
 * interleavings of two threads that use one stream and one that collects.
 *
 * A user enqueues work, takes its position, and retires a block that waits for it. Then it may have the position
 * covered, ask for it, or synchronise the stream. The device does what is enqueued, one thing after the other: a place
 * says how many things were enqueued up to this one. It is seen to go on only where it is asked, and no further than
 * the answer says. A ticket that nobody needs serves again, with the same event.
 *
 * A section under the timeline's mutex is one step here (d_step): no call is made in it. Those under `recording_` are
 * not. An event may be broken once, as by a capture. Refused calls and lost devices are not part of this.
 *
 * Each of these breaks one rule that the source states, and then there is an error:
 * mutation: POSITION_READ_AFTER    the position that an event covers is read after the event is recorded
 * mutation: WITHOUT_RECORDING      events are recorded and listed without `recording_`
 * mutation: ISSUED_BEFORE_WORK     a position is taken before its work is enqueued
 * mutation: UNPINNED               a ticket may serve again while a thread asks for its event
 * mutation: SERIAL_READ_AFTER      synchronize() reads the last ticket's number after the last position
 * mutation: SYNC_POSITION_AFTER    synchronize() reads the last position when the device is done
 * mutation: RECORDED_STAYS         what a broken event was to cover still counts as covered
 * mutation: BLOCKS_BY_RECORDED     a block is taken when its position is covered
 * mutation: WANTED_NOT_COVERED     a collection does not cover what the blocks wait for
 */

#define POSITIONS 2
#define TICKETS 5
#define NONE TICKETS

/* The device. */
byte enqueued, executed;
bool idle;                 /* it is known to have done all */
byte place[POSITIONS + 1]; /* of each position's work */

/* The Timeline. */
byte issued, recorded, completed, last_serial, last_wanted;
bool recording;
bool retired[POSITIONS + 1], waiting[POSITIONS + 1]; /* blocks, by the position for which they wait */
byte list[TICKETS], length;                          /* pending tickets */
byte event_place[TICKETS], position_of[TICKETS], serial_of[TICKETS], references[TICKETS];
bool is_pending[TICKETS];

/* Around it. */
byte works = POSITIONS; /* that may still be begun */
byte collections = 1;
bool may_break = true; /* an event, when it is asked; not since then */
byte reclaimed;

#define LOCALS byte mine, ticket = NONE, position, serial, at; bool yes, is_broken

/* ---- Under the mutex: within a d_step */

inline recycle_if_unused(t) {
  if
  :: references[t] == 0 && !is_pending[t] -> event_place[t] = 0; position_of[t] = 0; serial_of[t] = 0
  :: else -> skip
  fi
}

/* Without a reference: the first that has none and is not in the list. */
inline take_ticket() {
  ticket = 0;
  do
  :: references[ticket] != 0 || is_pending[ticket] -> ticket++
  :: else -> break
  od;
  references[ticket] = 1 /* so that no other thread takes it */
}

inline complete(up_to_serial, up_to_position) {
  if
  :: completed < up_to_position -> completed = up_to_position
  :: else -> skip
  fi;
  assert(completed <= issued);
  at = 1;
  do
  :: at <= completed -> assert(place[at] != 0 && place[at] <= executed); at++
  :: else -> break
  od;
  do
  :: length > 0 && serial_of[list[0]] <= up_to_serial ->
     at = list[0];
     is_pending[at] = false;
     recycle_if_unused(at);
     length--;
     at = 0;
     do
     :: at < length -> list[at] = list[at + 1]; at++
     :: else -> break
     od;
     list[length] = 0
  :: else -> break
  od;
  at = 0
}

inline finish_asking() {
  if
  :: yes -> complete(serial_of[ticket], position_of[ticket])
  :: is_broken && is_pending[ticket] -> /* set_aside() */
     at = 0;
     do
     :: list[at] != ticket -> at++
     :: else -> break
     od;
     length--;
     do
     :: at < length -> list[at] = list[at + 1]; at++
     :: else -> break
     od;
     list[length] = 0;
     at = 0;
     is_pending[ticket] = false;
#ifndef RECORDED_STAYS
     recorded = completed;
     if
     :: length > 0 && position_of[list[length - 1]] > completed -> recorded = position_of[list[length - 1]]
     :: else -> skip
     fi
#endif
  :: else -> skip
  fi;
  is_broken = false
}

inline find_covering(wanted) {
  at = 0;
  do
  :: at < length && position_of[list[at]] < wanted -> at++
  :: else -> break
  od;
  if
  :: at < length -> ticket = list[at]
  :: else -> ticket = NONE
  fi;
  at = 0
}

#ifdef BLOCKS_BY_RECORDED
#define is_done(p) (recorded >= p)
#else
#define is_done(p) (completed >= p)
#endif

inline take_done() {
  at = 1;
  do
  :: at <= POSITIONS ->
     if
     :: waiting[at] && is_done(at) ->
        assert(place[at] != 0 && place[at] <= executed);
        waiting[at] = false;
        reclaimed++
     :: else -> skip
     fi;
     at++
  :: else -> break
  od;
  at = 0
}

inline absorb_retired() {
  at = 1;
  do
  :: at <= POSITIONS ->
     if
     :: retired[at] ->
        retired[at] = false;
        waiting[at] = true;
        if
        :: last_wanted < at -> last_wanted = at
        :: else -> skip
        fi
     :: else -> skip
     fi;
     at++
  :: else -> break
  od;
  at = 0
}

/* ---- Calls */

inline cover(wanted) {
  if
  :: recorded >= wanted || completed >= wanted -> skip
  :: else ->
     d_step { take_ticket() };
#ifndef WITHOUT_RECORDING
     atomic { !recording -> recording = true };
#endif
     if
     :: recorded >= wanted || completed >= wanted -> skip
     :: else -> /* record_locked() */
#ifndef POSITION_READ_AFTER
        position = issued;
#endif
        d_step { enqueued++; event_place[ticket] = enqueued };
#ifdef POSITION_READ_AFTER
        position = issued;
#endif
        d_step {
          assert(length == 0 || position_of[list[length - 1]] <= position);
          last_serial++;
          serial_of[ticket] = last_serial;
          position_of[ticket] = position;
          is_pending[ticket] = true;
          list[length] = ticket;
          length++;
          recorded = position;
          position = 0
        }
     fi;
#ifndef WITHOUT_RECORDING
     recording = false;
#endif
     /* Given back if it is not recorded. Else nobody but the list has it. */
     atomic { references[ticket]--; d_step { recycle_if_unused(ticket); ticket = NONE } }
  fi
}

inline query_event() {
  if
  :: atomic { executed >= event_place[ticket] -> yes = true }
  :: atomic { executed < event_place[ticket] -> executed = event_place[ticket]; yes = true }
  :: atomic { executed < event_place[ticket] && !idle -> yes = false }
  :: atomic { may_break && is_pending[ticket] && !idle -> may_break = false; is_broken = true }
  fi
}

/* Of a ticket to which this thread has got a reference. */
inline ask() {
  query_event();
  d_step {
    finish_asking();
#ifndef UNPINNED
    references[ticket]--;
#endif
    recycle_if_unused(ticket);
    ticket = NONE;
    yes = false
  }
}

inline pin() {
#ifndef UNPINNED
  references[ticket]++
#else
  skip
#endif
}

/* resolve(): what was covered has a ticket, or is done. */
inline query(wanted) {
  cover(wanted);
  d_step {
    if
    :: completed >= wanted -> skip
    :: else -> find_covering(wanted); 
       if
       :: ticket != NONE -> pin()
       :: else -> assert(!may_break) /* it is covered anew when it is asked for again */
       fi
    fi
  };
  if
  :: ticket != NONE -> ask()
  :: else -> skip
  fi
}

inline synchronize() {
#ifdef SERIAL_READ_AFTER
  position = issued;
  serial = last_serial;
#else
  serial = last_serial;
  position = issued;
#endif
  mine = enqueued;
  d_step {
    if
    :: executed < mine -> executed = mine
    :: else -> skip
    fi
  };
#ifdef SYNC_POSITION_AFTER
  position = issued;
#endif
  d_step { complete(serial, position); serial = 0; position = 0; mine = 0 }
}

/* A thorough look; `polling_` lets one in. */
inline reclaim() {
  d_step {
    absorb_retired();
    take_done();
    at = 1;
    do
    :: at <= POSITIONS ->
       if
       :: waiting[at] -> mine = last_wanted
       :: else -> skip
       fi;
       at++
    :: else -> break
    od;
    at = 0
  };
#ifndef WANTED_NOT_COVERED
  cover(mine);
#endif
  mine = 0;
  do
  :: d_step { /* the first ticket that a block wants; after that, any later one may be asked for first */
       mine = 1;
       do
       :: mine <= POSITIONS && !waiting[mine] -> mine++
       :: else -> break
       od;
       if
       :: mine <= POSITIONS -> find_covering(mine)
       :: else -> skip
       fi;
       mine = 0;
       if
       :: ticket != NONE -> pin()
       :: else -> skip
       fi
     };
     if
     :: ticket == NONE -> break
     :: else -> skip
     fi;
     query_event();
     d_step {
       finish_asking();
#ifndef UNPINNED
       references[ticket]--;
#endif
       recycle_if_unused(ticket);
       ticket = NONE;
       take_done()
     };
     if
     :: !yes -> break
     :: else -> yes = false
     fi
  od;
  yes = false
}

active [2] proctype user() {
  LOCALS;
end:
  do
  :: atomic { works > 0 -> works-- };
#ifdef ISSUED_BEFORE_WORK
     d_step { issued++; mine = issued };
     d_step { enqueued++; place[mine] = enqueued };
#else
     d_step { enqueued++; position = enqueued };
     d_step { issued++; mine = issued; place[mine] = position; position = 0 };
#endif
     retired[mine] = true;
     if
     :: true -> cover(mine)
     :: true -> query(mine)
     :: true -> synchronize()
     :: true -> skip
     fi;
     mine = 0
  od
}

active proctype collector() {
  LOCALS;
end:
  do
  :: atomic { collections > 0 -> collections-- }; reclaim()
  /* Nothing more happens: one look more finds all that is left. */
  :: atomic { timeout && !idle -> idle = true; collections++ }
  :: atomic { timeout && idle -> assert(reclaimed == POSITIONS && !recording); break }
  od
}
