#include "base/fork.hpp"

namespace thole::inline v0_1::detail {

constinit std::atomic<std::uint32_t> forks{0};

}  // namespace thole::inline v0_1::detail
