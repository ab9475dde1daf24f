/* Who holds a block: include/thole/detail/borrow_state.hpp, in all interleavings of a few threads.
 *
 * The owner makes a handle and drops it; other threads borrow through it meanwhile, and give the block to graphs. A
 * call through the handle is over before the handle is dropped, as the program must see to; borrows and graphs may end
 * later, graphs on any thread. Who learns that it was the last gives the block back, and it serves a second handle.
 *
 * Orders of memory are not part of this: each read-modify-write is one step, and a step is seen by all.
 *
 * Each of these breaks one rule that the source states, and then there is an error:
 * mutation: WRITE_IN_TWO_STEPS  begin_write() checks the word and then adds to whatever it is by now
 * mutation: READ_IN_TWO_STEPS   begin_read() does so
 * mutation: WORD_READ_AGAIN     take_away() reads the word again, instead of using what the subtraction returned
 * mutation: LAST_READ_BEFORE    take_away() reads the word before it subtracts
 * mutation: GRAPHS_APART        who is the last is told without a look at the graphs
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
byte calling;          /* threads in a call through the handle */
bool usable;           /* the handle, by the program's rule */
bool pooled = true;    /* nobody has the block */
byte given_back;       /* how often */
byte begins = 4, nodes = 1; /* how many borrows and graphs there may still be */

#define allows_read(seen) ((seen & WRITER) == 0)
#define allows_write(seen) ((seen & (WRITER | READERS)) == 0)

inline judge_borrows() {
  assert(!pooled);
  assert(writers <= 1 && (writers == 0 || readers == 0))
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
  :: last ->
     d_step {
       assert(holders == 0 && !pooled);
       last = false;
       given_back++;
       pooled = true
     }
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
     atomic { calling == 0 -> usable = false };
     take_away(HANDLE, one)
  :: else -> break
  od
}

active [THREADS] proctype thread() {
  byte seen;
  bool last, reads, writes;
end:
  do
  /* A borrow begins, through the handle. */
  :: atomic { usable && !reads && !writes && begins > 0 -> begins--; calling++ };
     seen = word;
     if
     :: true -> /* begin_read() */
        do
        :: !allows_read(seen) -> break
        :: else ->
#ifdef READ_IN_TWO_STEPS
           d_step { word = word + READER; holders++; readers++; reads = true; judge_borrows() };
           break
#else
           if
           :: d_step { word == seen -> word = word + READER; holders++; readers++; reads = true; judge_borrows() };
              break
           :: seen = word /* another value; or none, as a weak exchange may fail */
           fi
#endif
        od
     :: true -> /* begin_write() */
        do
        :: !allows_write(seen) -> break
        :: else ->
#ifdef WRITE_IN_TWO_STEPS
           d_step { word = word + WRITER; holders++; writers++; writes = true; judge_borrows() };
           break
#else
           if
           :: d_step { word == seen -> word = word + WRITER; holders++; writers++; writes = true; judge_borrows() };
              break
           :: seen = word
           fi
#endif
        od
     fi;
     atomic { seen = 0; calling-- }
  /* A graph gets the block, while a use under way holds it. */
  :: d_step { (reads || writes) && nodes > 0 -> nodes--; word = word + GRAPH; holders++; graphs++; assert(!pooled) }
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
