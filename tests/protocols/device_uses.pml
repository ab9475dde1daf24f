/* Calls that use device memory: DeviceBlock::life of lib/streams/device_block.hpp, with try_hold(), let_go(),
 * new_device_block() and recycle() of device_block.cpp, Submitting of lib/streams/submitting.hpp, and how a call holds
 * all that it uses, or nothing, HeldUses and HeldDeviceUse of lib/api/held_uses.cpp, in all interleavings.
 *
 * There are two pieces of device memory. The program drops one of them meanwhile, and makes another, which gets the same
 * record. Two calls list one piece or two, or one of them twice, each to be read or written, and may run a function of
 * the program's while they hold that. A third call, a copy, uses one piece and runs none; the first call's function may
 * wait for that call to return. All of them have spans of the first life.
 *
 * There are two such calls, or one with a copy and the program that drops, or one with two copies: all at once are too
 * many. A loop around a compare-exchange is one step, as is a load after which it gives up. Who waits tries again when
 * it is worth it: that two calls could keep each other from a piece by turns, ever again, is not looked at. Calls within
 * the function of another call of the thread are not part of this, nor is how a use is noted (uses.pml).
 *
 * Each of these breaks one rule that the source states, and then there is an error:
 * mutation: IGNORES_GENERATION    try_hold() does not look at the life
 * mutation: IGNORES_GONE          try_hold() holds what nobody holds
 * mutation: LOOKS_THEN_ADDS       try_hold() looks, and then counts
 * mutation: GENERATION_STAYS      the next life of a record has the number of the one before
 * mutation: WRITES_BESIDE_READERS begin() of one that writes does not look for those that read
 * mutation: READS_BESIDE_WRITER   begin() of one that reads does not look for one that writes
 * mutation: OWN_READERS_CONFLICT  a call that has a piece to read does not get it to write
 * mutation: OWN_WRITER_CONFLICTS  a call that has a piece to write does not get it to read
 * mutation: ALL_READERS_ARE_OWN   a call that has a piece to read gets it to write, whoever reads it
 * mutation: WAITS_HOLDING         who waits keeps what it has
 * mutation: WAITS_FOR_FUNCTIONS   who meets a call that runs a function waits for it
 * mutation: OWN_FUNCTION_COUNTS   a call's own function forbids it to wait for another one's end
 * mutation: DROPPED_BEFORE_END    the memory is let go of before the use ends
 */

#define RECORDS 2
#define CALLS 3
#define COPY 2 /* the third one */

/* The records: DeviceBlock::life, and Submitting. */
byte generation[RECORDS], holders[RECORDS];
byte readers[RECORDS], functions[RECORDS];
bool writer[RECORDS];
bool pooled; /* the first, between two lives */

/* What is true, beside that. */
byte life[RECORDS]; /* of the memory that is there; 0: none */
byte lives = 1;
bool reads_now[CALLS * RECORDS], writes_now[CALLS * RECORDS]; /* calls that are under way */
bool returned[CALLS];
bool dropped; /* the program drops the first piece; else nobody needs to hold any */

#define when(condition) if :: !(condition) -> skip :: else -> /* up to `fi` */
#define now(array, call, record) array[(call) * RECORDS + (record)]
#define others(array, record) \
  ((me != 0 && now(array, 0, record)) || (me != 1 && now(array, 1, record)) || (me != 2 && now(array, 2, record)))

inline let_go(record) {
  d_step { assert(holders[record] > 0); holders[record] = holders[record] - dropped; last = holders[record] == 0 };
  when(last)
    d_step { /* free_device_block() */
      assert(life[record] != 0);
      assert(readers[record] == 0 && !writer[record] && functions[record] == 0);
      life[record] = 0;
      last = false
    };
    pooled = true /* recycle() */
  fi
}

proctype owner() {
  bool last;
  byte number;
  let_go(0);
  pooled -> pooled = false; /* new_device_block() */
  number = generation[0];
  atomic {
#ifndef GENERATION_STAYS
    generation[0] = number + 1;
#endif
    holders[0] = 1;
    number = 0;
    lives++;
    life[0] = lives
  };
  let_go(0)
}

/* Sets `held`. */
inline try_hold(record) {
#ifdef LOOKS_THEN_ADDS
  held = generation[record] == 1 && holders[record] != 0;
  when(held && dropped) holders[record]++ fi
#else
  d_step {
#if defined(IGNORES_GENERATION)
    held = holders[record] != 0;
#elif defined(IGNORES_GONE)
    held = generation[record] == 1;
#else
    held = generation[record] == 1 && holders[record] != 0;
#endif
    holders[record] = holders[record] + (held && dropped)
  }
#endif
}

#if defined(READS_BESIDE_WRITER)
#define may_begin(record, w, own) (!(w) || (!writer[record] && readers[record] == (own)))
#elif defined(WRITES_BESIDE_READERS)
#define may_begin(record, w, own) (!writer[record])
#else
#define may_begin(record, w, own) (!writer[record] && (!(w) || readers[record] == (own)))
#endif

/* Submitting::begin(); sets `begun`, and `met_other` where another call is why it does not. */
#define own_entry(record) (at == 1 && submitting[0] && block[0] == record)
inline begin(record, w, own) {
  d_step {
    begun = may_begin(record, w, own);
    met_other = !begun && ((writer[record] && !(own_entry(record) && writes[0])) ||
                           readers[record] > (own_entry(record) && !writes[0]));
    if
    :: begun && (w) -> writer[record] = true
    :: begun && !(w) -> readers[record]++
    :: else -> skip
    fi;
    functions[record] = functions[record] + (begun && runs_function)
  }
}

inline end_use(record, w) {
  d_step {
    if
    :: w -> assert(writer[record]); writer[record] = false
    :: else -> assert(readers[record] > 0); readers[record]--
    fi;
    functions[record] = functions[record] - runs_function
  }
}

/* HeldUses::hold() of the entry `at`, which the call has counted as a holder; sets `taken`, or `refused`. */
inline hold_entry() {
  begin(block[at], writes[at], 0);
  submitting[at] = begun;
  taken = begun;
  when(!taken && at == 1 && block[0] == block[1])
#ifndef OWN_WRITER_CONFLICTS
    taken = writes[0] || !submitting[0];
#endif
    own = !writes[0] && submitting[0];
#ifndef OWN_READERS_CONFLICT
    when(!taken && writes[1] && own)
#ifdef ALL_READERS_ARE_OWN
      begin(block[1], true, readers[block[1]]);
#else
      begin(block[1], true, 1);
#endif
      submitting[1] = begun;
      taken = begun
    fi
#endif
  fi;
  d_step { /* may_wait_for() */
    if
    :: taken -> skip
    :: else ->
#if defined(WAITS_FOR_FUNCTIONS)
       skip
#elif defined(OWN_FUNCTION_COUNTS)
       refused = functions[block[at]] > 0;
       assert(!refused || functions[block[at]] > (own && runs_function))
#else
       refused = functions[block[at]] > (own && runs_function)
#endif
    fi
  };
  own = false
}

/* From the last on. */
inline let_go_of_all() {
  do
  :: count > 0 ->
     count--;
#ifdef DROPPED_BEFORE_END
     let_go(block[count]);
#endif
     when(submitting[count]) end_use(block[count], writes[count]); submitting[count] = false fi;
#ifndef DROPPED_BEFORE_END
     let_go(block[count])
#endif
  :: else -> break
  od
}

/* The call whose number is `me`, after it has its list. */
inline call_it() {
  do
  :: at < listed ->
     try_hold(block[at]);
     when(!held) break /* an error: that memory is gone */ fi;
     count++;
     held = false;
     hold_entry();
     if
     :: taken -> at++
     :: !taken && refused -> break /* an error, too */
     :: else -> /* busy */
        assert(met_other);
        stopped = block[at];
        wanted = writes[at];
#ifdef WAITS_HOLDING
        count--;
        let_go(block[at]);
#else
        let_go_of_all();
        at = 0;
#endif
        wait_for_it()
     fi;
     d_step { taken = false; met_other = false; stopped = 0; wanted = false }
  :: else ->
     d_step {
       at = 0;
       do
       :: at < listed ->
          assert(life[block[at]] == 1);
          assert(!others(writes_now, block[at]) && (!writes[at] || !others(reads_now, block[at])));
          now(reads_now, me, block[at]) = now(reads_now, me, block[at]) || !writes[at];
          now(writes_now, me, block[at]) = now(writes_now, me, block[at]) || writes[at];
          at++
       :: else -> break
       od
     };
     if
     :: me == 0 && runs_function -> returned[COPY] /* its function waits */
     :: true -> skip
     fi;
     d_step {
       now(reads_now, me, 0) = false; now(reads_now, me, 1) = false;
       now(writes_now, me, 0) = false; now(writes_now, me, 1) = false
     };
     break
  od;
  let_go_of_all();
  atomic {
    returned[me] = true;
    block[0] = 0; block[1] = 0; writes[0] = false; writes[1] = false; runs_function = false;
    at = 0; listed = 0; held = false; begun = false; taken = false; refused = false; met_other = false
  }
}

/* pause_before_try(), until it is worth a try. */
inline wait_for_it() {
#ifdef WAITS_FOR_FUNCTIONS
  may_begin(stopped, wanted, 0)
#else
  may_begin(stopped, wanted, 0) || functions[stopped] != 0
#endif
}

inline list_one() {
  if
  :: block[listed] = 0
  :: block[listed] = 1
  fi;
  if
  :: writes[listed] = true
  :: true
  fi;
  listed++
}

proctype call(byte me; byte most) {
  byte block[2], at, listed, count, stopped;
  bool writes[2], submitting[2], runs_function, held, begun, taken, refused, own, last, wanted, met_other;
  atomic {
    list_one();
    if
    :: most > 1 -> list_one()
    :: true
    fi;
    if
    :: most > 1 -> runs_function = true
    :: true
    fi
  };
  call_it()
}

init {
  atomic {
    generation[0] = 1; generation[1] = 1;
    holders[0] = 1; holders[1] = 1;
    life[0] = 1; life[1] = 1;
    run call(0, 2);
    if
    :: dropped = true; run owner(); run call(COPY, 1)
    :: run call(1, 2); returned[COPY] = true
    :: run call(1, 1); run call(COPY, 1)
    fi
  }
}
