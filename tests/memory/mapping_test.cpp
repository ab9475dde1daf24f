// What address ranges carry from one arena to the next, and what a forked child sees of them.

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <string>
#include <thread>
#include <tuple>

#include <thole/config.hpp>

#include "fixture.hpp"
#include "support/sanitized.hpp"

using namespace memory_test;

namespace {

/// The VmFlags of the mapping that the address lies in, such as "rd wr mr mw me dc".
std::string flags_of(const void* address) {
  std::ifstream file("/proc/self/smaps");
  const auto wanted = reinterpret_cast<std::uintptr_t>(address);
  bool found = false;
  for (std::string line; std::getline(file, line);) {
    std::uintptr_t from = 0, to = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &from, &to) == 2) found = from <= wanted && wanted < to;
    if (found && line.rfind("VmFlags:", 0) == 0) return line.substr(8) + ' ';
  }
  return {};
}

bool has_flag(const void* address, const std::string& flag) {
  return flags_of(address).find(' ' + flag + ' ') != std::string::npos;
}

/// A figure of /proc/self/status.
[[maybe_unused]] std::size_t status(const std::string& key) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.rfind(key, 0) == 0) return std::stoull(line.substr(key.size()));
  return 0;
}

/// The exit code of what `function` returns in a forked child; 128 and more: it was killed.
template <class Function>
int in_child(Function&& function) {
  const pid_t child = fork();
  if (child == 0) _exit(function());
  int state = 0;
  REQUIRE(waitpid(child, &state, 0) == child);
  return WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
}

constexpr int preferred = 1, bound = 2, interleaved = 3;  // MPOL_PREFERRED, MPOL_BIND, MPOL_INTERLEAVE

/// Which pages a block's memory gets, and of the first nodes which, as the kernel has been told.
int policy_at(const std::byte* data, unsigned long* first_nodes = nullptr) {
  int mode = -1;
  std::array<unsigned long, 16> nodes{};
  constexpr unsigned long of_address = 2;  // MPOL_F_ADDR
  syscall(SYS_get_mempolicy, &mode, nodes.data(), 64 * nodes.size(), data, of_address);
  if (first_nodes != nullptr) *first_nodes = nodes[0];
  return mode;
}
int policy(const Block* block, unsigned long* first_nodes = nullptr) { return policy_at(block->data, first_nodes); }

bool is_mapped(void* address) { return msync(address, 4096, MS_ASYNC) == 0; }

}  // namespace

TEST_CASE("a region is not copied into forked children") {
  const Machine machine;
  for (const std::size_t bytes : {1 * MiB, 256 * MiB}) {
    const OpenStore store(machine, bytes);
    Block* const small = take(*store, 100, 64);  // mimalloc, where it is used, is told of a part of the region
    Block* const large = take(*store, bytes / 2, 4096);
    REQUIRE(large != nullptr);
    CHECK(has_flag(large->data, "dc"));
    CHECK(is_mapped(large->data));
    CHECK(in_child([large] { return is_mapped(large->data) ? 1 : 0; }) == 0);
    give(*store, small);
    give(*store, large);
  }
}

TEST_CASE("a forked child may end a store of its parent's, which touches none of its memory") {
  const Machine machine;
  const OpenStore store(machine, 256 * MiB);
  Block* const small = take(*store, 100, 64);
  REQUIRE(from_mimalloc(small));
  give(*store, small);
  CHECK(in_child([&store] {
          store->close();
          return 0;
        }) == 0);
  CHECK(machine.controls.pinned_bytes() == 256 * MiB);
}

TEST_CASE("core dumps contain an arena only if it says so, whatever the arena said that had the addresses before") {
  const Machine machine;
  for (const std::size_t bytes : {1 * MiB, 256 * MiB})
    for (const bool wanted : {false, true, false}) {
      auto opened = Store::open(machine.device, {bytes, 0, {.in_core_dumps = wanted}});
      REQUIRE(opened);
      Block* const block = take(**opened, bytes / 2, 64);
      CHECK(has_flag(block->data, "dd") != wanted);
      give(**opened, block);
      (*opened)->close();
      (void)machine.pinned();
    }
}

TEST_CASE("memory comes from its device's NUMA node while that has some, and from the one that the arena names only") {
  if constexpr (!config::numa) return;
  const Machine machine({.numa_node = 0}), on_no_node({.numa_node = 700});
  for (const std::size_t bytes : {1 * MiB, 256 * MiB}) {
    const OpenStore store(machine, bytes);
    Block* const block = take(*store, bytes / 2, 64);
    unsigned long nodes = 0;
    CHECK(policy(block, &nodes) == preferred);
    CHECK(nodes == 1);  // node 0, alone
    give(*store, block);
    const OpenStore other(on_no_node, bytes);
    Block* const anywhere = take(*other, bytes / 2, 64);
    CHECK(policy(anywhere) == 0);
    give(*other, anywhere);
  }
  // No machine has it.
  const auto nowhere = Store::open(machine.device, {MiB, 0, {.numa_node = 700}});
  REQUIRE_FALSE(nowhere);
  CHECK(nowhere.error().errc() == Errc::invalid_argument);
  CHECK(std::string(nowhere.error().what()).find("there is no NUMA node 700") != std::string::npos);
}

TEST_CASE("where the program has said itself where its memory is to lie, that holds") {
  if constexpr (!config::numa) return;
  const Machine machine({.numa_node = 0});
  std::thread([&] {
    const unsigned long node_0 = 1;
    if (syscall(SYS_set_mempolicy, interleaved, &node_0, 64UL) != 0) return;  // of this thread alone
    const OpenStore store(machine, MiB);
    Block* const block = take(*store, KiB, 64);
    CHECK(policy(block) == 0);  // none of its own: the thread's holds
    give(*store, block);
  }).join();
}

TEST_CASE("an address range that is used again is bound to no NUMA node, and prefers none") {
  if constexpr (!config::numa) return;
  const Machine on_node_0({.numa_node = 0}), machine;
  for (const auto& [first_machine, node, before] :
       {std::tuple{&machine, 0, bound}, std::tuple{&on_node_0, -1, preferred}}) {
    auto first = Store::open(first_machine->device, {256 * MiB, 0, {.numa_node = node}});
    if (!first) {
      MESSAGE("not enough memory here: " << first.error().what());
      return;
    }
    // The first and the last of its bytes: mimalloc's own data, where it keeps some, lies at the start.
    Block* const earlier = take(**first, 100, 64);
    const std::byte* const place = earlier->data;
    CHECK(policy(earlier) == before);
    give(**first, earlier);
    (*first)->close();
    (void)first_machine->pinned();
    {
      const OpenStore store(machine, 256 * MiB);
      Block* const small = take(*store, 100, 64);
      Block* const large = take(*store, 200 * MiB, 64);
      CHECK(small->data == place);
      CHECK(policy(small) == 0);
      CHECK(policy(large) == 0);
      for (const auto& region : store->regions()) CHECK(policy_at(region.data()) == 0);
      give(*store, small);
      give(*store, large);
    }
    (void)machine.pinned();  // gives the range to the next
  }
}

TEST_CASE("what stays pinned serves only an arena that wants its memory from the same node") {
  if constexpr (!config::numa) return;
  const Machine machine;
  for (const int node : {-1, 0, -1, 0}) {
    auto opened = Store::open(machine.device, {MiB, 0, {.numa_node = node}});
    REQUIRE(opened);
    Block* const block = take(**opened, MiB, 64);
    CHECK(policy(block) == (node < 0 ? 0 : bound));
    give(**opened, block);
    (*opened)->close();
  }
  CHECK(machine.controls.calls(SimulatedCall::register_host) == 2);
}

#if !THOLE_TEST_SANITIZED  // which maps memory itself
TEST_CASE("200 arenas in turn, each larger than the last, leave few addresses and threads, and serve small blocks") {
  const Machine machine;
  const std::size_t addresses = status("VmSize:") * KiB;
  const std::size_t threads = status("Threads:");
  std::size_t largest = 0;
  for (std::size_t i = 0; i < 200; ++i) {
    largest = 256 * MiB + i * 2 * MiB;
    const OpenStore store(machine, largest);
    Block* const block = take(*store, 100, 64);
    REQUIRE(block != nullptr);
    CHECK(from_mimalloc(block));
    CHECK(store->stats().trouble.empty());
    block->data[99] = std::byte{1};
    give(*store, block);
  }
  CHECK(machine.pinned() == 0);
  CHECK(status("VmSize:") * KiB <= addresses + 4 * largest);
  // Of each power of two one range with a chunk of mimalloc's.
  CHECK(status("Threads:") <= threads + 3);
}
#endif
