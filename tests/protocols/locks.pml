/* Locks in a byte and in a pointer, lib/base/spin_lock.hpp, and what a thread's cache keeps under one: take_cached(),
 * take_from_others(), adopt_cache() and abandon_cache() of lib/heap/heap_core.cpp with ThreadCache, Depot::give() and
 * Depot::take(), take_from_keepers() of lib/heap/arena_core.cpp, in all interleavings.
 *
 * First two threads have the uses of one block grow by a slot each, under a LockedPointer. Then two threads take blocks
 * and give them back. A thread takes from its cache, from the depot, or from any cache. When it ends it leaves its cache
 * to the next thread, which is here the same process once more. A list is one block long, so that a cache has place for
 * two; each thread begins with a block of the program's, and one lies in the depot. A lock is an exchange and a store,
 * and what is done under it are steps of their own. The mutexes are taken for granted.
 *
 * Each of these breaks one rule that the source states, and then there is an error:
 * mutation: LOADED_THEN_STORED  to take a spin lock is a load and a store
 * mutation: BIT_BY_LOAD         to take a LockedPointer is a load and a store
 * mutation: SET_WITHOUT_BIT     LockedPointer::set() stores the pointer alone
 * mutation: UNLOCK_STORES_OLD   LockedPointer::unlock() stores the pointer that lock() has seen
 * mutation: OWN_UNLOCKED        a thread takes from its own cache without the lock
 * mutation: OTHERS_UNLOCKED     take_from_keepers() takes without the lock
 * mutation: HINT_BELIEVED       Depot::take() does not look again under the lock
 * mutation: GIVES_ONE_LIST      a thread that ends gives only one list of its cache to the depot
 * mutation: LEFT_BEFORE_EMPTY   abandon_cache() leaves the cache to others before it is empty
 * mutation: ADOPTED_UNLOCKED    adopt_cache() does not take the heap's mutex
 * mutation: DEPOT_LOCK_FIRST    who takes from others' caches has the depot's lock
 */

#define BLOCKS 3
#define CACHES 2
#define LIVES 2 /* of each thread */
#define TURNS 3 /* in each life */

/* Uses::slots: the number of slots for the pointer, and the bit. */
byte word;
byte inside, done;

/* HeapCore: the caches without an owner (a bit each); Depot. */
byte unowned, made; /* caches */
bool mutex, keepers_mutex;
bool cache_lock[CACHES];
byte used_list[CACHES], full_list[CACHES]; /* lists, which are blocks, from 1 on; 0: none */
bool depot_lock;
byte depot, next_list[BLOCKS + 1];

/* What is true, beside that. */
bool out[BLOCKS + 1]; /* the program has it */
bool owned[CACHES];
byte ended;

#define when(condition) if :: !(condition) -> skip :: else -> /* up to `fi` */

inline lock_mutex(m) { atomic { !m -> m = true } }
inline unlock_mutex(m) { m = false }

inline lock(l) {
#ifdef LOADED_THEN_STORED
  !l;
  l = true
#else
  atomic { busy = l; l = true };
  do
  :: busy -> !l; atomic { busy = l; l = true }
  :: else -> break
  od
#endif
}
inline unlock(l) { l = false }

/* ---- The pointer */

inline try_lock_pointer() {
#ifdef BIT_BY_LOAD
  busy = word & 1;
  when(!busy) word = word | 1 fi
#else
  atomic { busy = word & 1; word = word | 1 }
#endif
}

proctype grower() {
  bool busy;
  byte seen, pointer;
  try_lock_pointer();
  do
  :: busy -> (word & 1) == 0; try_lock_pointer()
  :: else -> break
  od;
  inside++;
  assert(inside == 1);
  seen = word & 254;
#ifdef SET_WITHOUT_BIT
  word = seen + 2;
#else
  word = (seen + 2) | 1;
#endif
  inside--;
#ifdef UNLOCK_STORES_OLD
  pointer = seen;
#else
  pointer = word & 254;
#endif
  word = pointer;
  done++
}

/* ---- The caches */

inline hand_out() {
  d_step {
    assert(!out[block]);
    out[block] = true;
    if
    :: mine == 0 -> mine = block
    :: else -> more = block
    fi;
    block = 0
  }
}

/* ThreadCache::take(), under the lock. */
inline take(c) {
  if
  :: used_list[c] != 0 -> block = used_list[c]; used_list[c] = 0
  :: used_list[c] == 0 && full_list[c] != 0 -> block = full_list[c]; full_list[c] = 0
  :: else -> skip
  fi
}

inline depot_take() {
  if
  :: depot == 0 -> skip
  :: else ->
#ifdef HINT_BELIEVED
     block = depot;
     lock(depot_lock);
#else
     lock(depot_lock);
     block = depot;
#endif
     when(block != 0) depot = next_list[block]; next_list[block] = 0 fi;
     unlock(depot_lock)
  fi
}

inline depot_give(list) {
  lock(depot_lock);
  next_list[list] = depot;
  depot = list;
  unlock(depot_lock)
}

inline take_cached() {
#ifndef OWN_UNLOCKED
  lock(cache_lock[cache]);
#endif
  take(cache);
  when(block == 0) depot_take() fi;
#ifndef OWN_UNLOCKED
  unlock(cache_lock[cache])
#endif
}

inline take_from_others() {
  lock_mutex(keepers_mutex);
#ifdef DEPOT_LOCK_FIRST
  lock(depot_lock);
#endif
  do
  :: c < CACHES && block == 0 ->
#ifndef OTHERS_UNLOCKED
     lock(cache_lock[c]);
#endif
     take(c);
#ifndef OTHERS_UNLOCKED
     unlock(cache_lock[c]);
#endif
     c++
  :: else -> break
  od;
  c = 0;
#ifdef DEPOT_LOCK_FIRST
  unlock(depot_lock);
#endif
  unlock_mutex(keepers_mutex)
}

/* ThreadCache::put() and put_slowly(). */
inline put() {
  lock(cache_lock[cache]);
  atomic { assert(out[mine]); out[mine] = false };
  when(used_list[cache] != 0)
    when(full_list[cache] != 0) block = full_list[cache]; full_list[cache] = 0; depot_give(block); block = 0 fi;
    full_list[cache] = used_list[cache]
  fi;
  used_list[cache] = mine;
  unlock(cache_lock[cache]);
  atomic { mine = more; more = 0 }
}

inline adopt_cache() {
#ifndef ADOPTED_UNLOCKED
  lock_mutex(mutex);
#endif
  if
  :: unowned & 1 -> cache = 0; unowned = unowned & 2
  :: !(unowned & 1) && (unowned & 2) -> cache = 1; unowned = unowned & 1
  :: else -> cache = made; made++
  fi;
  d_step {
    assert(cache < CACHES && !owned[cache] && used_list[cache] == 0 && full_list[cache] == 0);
    owned[cache] = true
  };
#ifndef ADOPTED_UNLOCKED
  unlock_mutex(mutex)
#endif
}

inline give_one() {
  if
  :: full_list[cache] != 0 -> block = full_list[cache]; full_list[cache] = 0
  :: full_list[cache] == 0 && used_list[cache] != 0 -> block = used_list[cache]; used_list[cache] = 0
  :: else -> skip
  fi;
  when(block != 0) depot_give(block); block = 0 fi
}

inline abandon_cache() {
  lock_mutex(mutex);
#ifdef LEFT_BEFORE_EMPTY
  atomic { owned[cache] = false; unowned = unowned | (1 << cache) };
  unlock_mutex(mutex);
#endif
  lock(cache_lock[cache]);
  give_one();
#ifndef GIVES_ONE_LIST
  give_one();
#endif
  unlock(cache_lock[cache]);
#ifndef LEFT_BEFORE_EMPTY
  atomic { owned[cache] = false; unowned = unowned | (1 << cache) };
  unlock_mutex(mutex);
#endif
  cache = 0
}

proctype thread(byte mine) {
  bool busy;
  byte more, block, cache, c, lives = LIVES, turns;
  do
  :: lives > 0 ->
     adopt_cache();
     turns = TURNS;
     do
     :: turns > 0 ->
        turns--;
        if
        :: mine != 0 -> put()
        :: more == 0 ->
           if
           :: take_cached()
           :: take_from_others()
           fi;
           when(block != 0) hand_out() fi
        fi
     :: else -> break
     od;
     abandon_cache();
     lives--
  :: else -> break
  od;
  ended++
}

init {
  byte count;
  atomic { run grower(); run grower() };
  done == 2;
  assert(word == 4);
  atomic {
    word = 0;
    done = 0;
    depot = 3;
    out[1] = true;
    out[2] = true;
    run thread(1);
    run thread(2)
  };
  ended == 2;
  d_step { /* what the program does not have lies in the depot, once */
    assert(used_list[0] == 0 && full_list[0] == 0 && used_list[1] == 0 && full_list[1] == 0);
    do
    :: depot != 0 -> assert(!out[depot]); out[depot] = true; depot = next_list[depot]
    :: else -> break
    od;
    assert(out[1] && out[2] && out[3])
  }
}
