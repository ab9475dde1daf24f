#include "base/fork.hpp"

namespace thole::detail {

constinit std::atomic<std::uint32_t> forks{0};

}  // namespace thole::detail
