#include "base/host_function.hpp"

#include "base/fork.hpp"

namespace thole::inline v0_1::detail {
namespace {

thread_local int running = 0;
thread_local std::uint32_t process = 0;  // in which `running` counts: a child that was forked in a function is in none

}  // namespace

InHostFunction::InHostFunction() noexcept {
  if (process != this_process()) running = 0;
  process = this_process();
  ++running;
}
InHostFunction::~InHostFunction() {
  if (process == this_process()) --running;
}

bool in_host_function() noexcept { return running != 0 && process == this_process(); }

}  // namespace thole::inline v0_1::detail
