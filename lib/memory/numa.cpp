#include "memory/numa.hpp"

#ifdef THOLE_WITH_NUMA
#include <linux/mempolicy.h>
#endif
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>

#include "base/limits.hpp"
#include "memory/mapping.hpp"

namespace thole::inline v0_1::detail {

#ifdef THOLE_WITH_NUMA

namespace {

constexpr int most_nodes = 1024;

long set_policy(std::byte* data, std::size_t bytes, int policy, int node) noexcept {
  constexpr unsigned bits = 8 * sizeof(unsigned long);
  const auto bit = static_cast<unsigned>(node);
  std::array<unsigned long, most_nodes / bits> mask{};
  mask[bit / bits] = 1UL << bit % bits;
  // The kernel reads one bit less than it is told of.
  return syscall(SYS_mbind, data, bytes, policy, mask.data(), most_nodes + 1UL, 0U);
}

}  // namespace

Result<void> bind_to_node(std::byte* data, std::size_t bytes, int node) {
  if (!numa_node_exists(node) || node >= most_nodes)
    return cannot_pin(Errc::invalid_argument, bytes, "there is no NUMA node " + std::to_string(node));
  if (set_policy(data, bytes, MPOL_BIND, node) == 0) return {};
  const int reason = errno;
  if (reason == ENOSYS && node == 0) return {};  // a kernel that knows no nodes has one
  return cannot_pin(
      reason == EINVAL ? Errc::invalid_argument : Errc::limit, bytes,
      "binding it to NUMA node " + std::to_string(node) + " failed (mbind: " + std::strerror(reason) + ")");
}

void prefer_node(std::byte* data, std::size_t bytes, int node) noexcept {
  int own = MPOL_DEFAULT;
  if (node < 0 || node >= most_nodes) return;
  if (syscall(SYS_get_mempolicy, &own, nullptr, 0UL, nullptr, 0UL) != 0 || own != MPOL_DEFAULT) return;
  (void)set_policy(data, bytes, MPOL_PREFERRED, node);
}

void unbind(std::byte* data, std::size_t bytes) noexcept {
  (void)syscall(SYS_mbind, data, bytes, MPOL_DEFAULT, nullptr, 0UL, 0U);
}

#else

Result<void> bind_to_node(std::byte*, std::size_t bytes, int node) {
  return cannot_pin(Errc::invalid_argument, bytes,
                    "thole was built without NUMA support, so it cannot be bound to node " + std::to_string(node));
}

void prefer_node(std::byte*, std::size_t, int) noexcept {}
void unbind(std::byte*, std::size_t) noexcept {}

#endif

}  // namespace thole::inline v0_1::detail
