#include "low/low.hpp"

namespace {
int help(char) { return 0; }  // nobody else's
}  // namespace
