# include <mimalloc.h>
