#include "base/host_function.hpp"

namespace thole::inline v0_1::detail {
namespace {

thread_local int running = 0;

}  // namespace

InHostFunction::InHostFunction() noexcept { ++running; }
InHostFunction::~InHostFunction() { --running; }

bool in_host_function() noexcept { return running != 0; }

}  // namespace thole::inline v0_1::detail
