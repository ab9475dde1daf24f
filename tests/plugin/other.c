/* A library that takes its share of the small store that a process has for thread-local variables of libraries loaded
 * late. */

static __thread char mine[48] __attribute__((tls_model("initial-exec")));

char* other_variable(void);
char* other_variable(void) { return mine; }
