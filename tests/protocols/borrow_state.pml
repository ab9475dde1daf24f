/* Who holds a block: include/thole/detail/borrow_state.hpp, in all interleavings of a few threads.
 *
 * The owner makes a handle and drops it; other threads borrow through it meanwhile, and give the block to graphs. As
 * the program must see to, a call that drops the handle or begins a BorrowMut has the handle for itself, and others
 * share it. Borrows and graphs may end later, and beside any call. Who learns that it was the last gives the block
 * back, and it serves a second handle.
 *
 * Orders of memory are not part of this: each step is seen by all.
 *
 * Each of these breaks one rule that the source states, and then there is an error:
 * mutation: WRITE_BESIDE_GRAPHS  begin_write() stores its word also where graphs hold the block
 * mutation: WRITE_SHARED         begin_write() is called beside another thread that begins something
 * mutation: DROP_BESIDE_GRAPHS   drop_handle() stores its word also where graphs hold the block
 * mutation: READ_STORES          begin_read() stores the word that it has checked, whatever it is by now
 * mutation: WORD_READ_AGAIN      take_away() reads the word again, instead of using what the subtraction returned
 * mutation: LAST_READ_BEFORE     take_away() reads the word before it subtracts
 * mutation: SHARED_IN_TWO_STEPS  a BorrowMut that becomes a Borrow ends, and then begins to read
 * mutation: GRAPHS_APART         take_away() does not count the graphs
 */

#define LIVES 2
#define THREADS 3
#define READER 1
#define READERS 3
#define GRAPH 4
#define GRAPHS 12
#define HANDLE 16
#define WRITER 32

byte word;

/* What is true, beside what the word says. */
byte holders, readers, writers;
byte graphs;           /* that nobody is about to drop */
byte calling;          /* threads in a call that shares the handle */
bool usable;           /* by the program's rule: the handle is not being dropped */
bool alone;            /* and a thread has it for itself */
bool pooled = true;    /* nobody has the block */
byte given_back;       /* how often */
byte begins = 4, nodes = 1; /* how many borrows and graphs there may still be */

#ifdef WRITE_BESIDE_GRAPHS
#define is_alone_for_write(seen) ((seen & ~GRAPHS) == HANDLE)
#else
#define is_alone_for_write(seen) (seen == HANDLE)
#endif
#ifdef DROP_BESIDE_GRAPHS
#define is_alone_for_drop(seen) ((seen & ~GRAPHS) == HANDLE)
#else
#define is_alone_for_drop(seen) (seen == HANDLE)
#endif
#define allows_read(seen) ((seen & WRITER) == 0)
#define allows_write(seen) ((seen & (WRITER | READERS)) == 0)

inline judge_borrows() {
  assert(!pooled);
  assert(writers <= 1 && (writers == 0 || readers == 0))
}

inline give_back() {
  d_step {
    assert(holders == 0 && !pooled);
    given_back++;
    pooled = true
  }
}

inline take_away(what, live) {
#ifdef LAST_READ_BEFORE
  last = word == what;
#endif
  d_step {
    live--;
    holders--;
#if !defined(WORD_READ_AGAIN) && !defined(LAST_READ_BEFORE)
#ifdef GRAPHS_APART
    last = (word & ~GRAPHS) == what;
#else
    last = word == what;
#endif
#endif
    word = word - what
  };
#ifdef WORD_READ_AGAIN
  last = word == 0;
#endif
  if
  :: last -> last = false; give_back()
  :: else -> skip
  fi
}

active proctype owner() {
  byte lives, one;
  bool last;
  do
  :: lives < LIVES ->
     atomic { pooled -> pooled = false; lives++ };
     d_step { word = HANDLE; holders = 1; one = 1; usable = true };
     atomic { calling == 0 && !alone -> usable = false };
     if /* drop_handle() */
     :: atomic { is_alone_for_drop(word) -> skip };
        d_step { word = 0; holders--; one = 0 };
        give_back()
     :: atomic { !is_alone_for_drop(word) -> skip };
        take_away(HANDLE, one)
     fi
  :: else -> break
  od
}

active [THREADS] proctype thread() {
  byte seen;
  bool last, reads, writes;
end:
  do
  /* A Borrow begins. */
  :: atomic { usable && !alone && !reads && !writes && begins > 0 -> begins--; calling++ };
     seen = word;
     do
     :: !allows_read(seen) -> break
     :: else ->
        if
#ifdef READ_STORES
        :: d_step { true -> word = seen + READER; holders++; readers++; reads = true; judge_borrows() }; break
#else
        :: d_step { word == seen -> word = word + READER; holders++; readers++; reads = true; judge_borrows() }; break
#endif
        :: seen = word /* another one; or the same, as a weak exchange may fail */
        fi
     od;
     atomic { seen = 0; calling-- }
  /* A BorrowMut begins. */
#ifdef WRITE_SHARED
  :: atomic { usable && !reads && !writes && begins > 0 -> begins--; calling++ };
#else
  :: atomic { usable && !alone && calling == 0 && !reads && !writes && begins > 0 -> begins--; alone = true };
#endif
     seen = word;
     do
     :: is_alone_for_write(seen) ->
        d_step { word = HANDLE | WRITER; holders++; writers++; writes = true; judge_borrows() };
        break
     :: else ->
        seen = word;
        do
        :: !allows_write(seen) -> break
        :: else ->
           if
           :: d_step { word == seen -> word = word + WRITER; holders++; writers++; writes = true; judge_borrows() };
              break
           :: seen = word
           fi
        od;
        break
     od;
#ifdef WRITE_SHARED
     atomic { seen = 0; calling-- }
#else
     atomic { seen = 0; alone = false }
#endif
  /* A BorrowMut becomes a Borrow: what its owner knows stays so. */
#ifdef SHARED_IN_TWO_STEPS
  :: atomic { writes && !reads -> word = word - WRITER; writes = false; writers-- };
     d_step { assert(writers == 0); word = word + READER; reads = true; readers++; judge_borrows() }
#else
  :: d_step { writes && !reads -> word = word - WRITER + READER; writes = false; writers--; reads = true; readers++; judge_borrows() }
#endif
  /* A graph gets the block, in a call that shares the handle or while a borrow holds the block. */
  :: d_step { (reads || writes || (usable && !alone)) && nodes > 0 ->
       assert(!pooled);
       nodes--;
       word = word + GRAPH;
       holders++;
       graphs++
     }
  /* A graph ends, on any thread. */
  :: atomic { graphs > 0 -> graphs--; seen = 1 }; take_away(GRAPH, seen)
  :: atomic { reads -> reads = false }; take_away(READER, readers)
  :: atomic { writes -> writes = false }; take_away(WRITER, writers)
  od
}

/* When nothing more can happen, each handle's block has come back once. */
active proctype judge() {
  timeout -> assert(pooled && word == 0 && given_back == LIVES)
}
