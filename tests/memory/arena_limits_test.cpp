// Arenas on a machine, or in a container, whose figures a test writes: what there is no room for is refused in words.
// The limits are the test's own, and calls are counted: on a simulated device, so that the machine's pinned memory is
// not what is measured.

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <thole/config.hpp>
#include <thole/thole.hpp>

#include "base/limits.hpp"
#include "blocks/block_pool.hpp"
#include "fixture.hpp"
#include "support/adopted.hpp"
#include "system_files.hpp"

using namespace memory_test;
using support::errc_text;
using support::errc_text_of;
using support::has;
using support::Mapped;
using support::until;

namespace {

/// The files that thole reads.
struct Files : System {
  MachineRoot here{root.string()};

  void container(std::size_t limit, std::size_t in_use) const {
    write("sys/fs/cgroup/memory.max", std::to_string(limit * MiB));
    write("sys/fs/cgroup/memory.current", std::to_string(in_use * MiB));
  }
  void node(int number, std::size_t room) const {
    const std::string name = std::to_string(number);
    // A sixty-fourth of it is the kernel's.
    write("sys/devices/system/node/node" + name + "/meminfo", "Node " + name + " MemTotal: 65536 kB\nNode " + name +
                                                                  " MemFree: " + std::to_string((room + 1) * KiB) +
                                                                  " kB\n");
  }
};

std::string mib(std::size_t count) { return bytes_text(count * MiB); }

constexpr std::array pin_methods{PinMethod::register_pages, PinMethod::host_alloc};

constexpr SimulatedCall call_of(PinMethod pin) {
  return pin == PinMethod::host_alloc ? SimulatedCall::allocate_host : SimulatedCall::register_host;
}

StoreOptions options_for(std::size_t bytes, PinMethod pin = PinMethod::register_pages) {
  return {.bytes = bytes, .max_bytes = 0, .region = {.pin = pin}};
}

/// Of addresses that are mapped.
std::size_t mapped() {
  std::ifstream file("/proc/self/statm");
  std::size_t pages = 0;
  file >> pages;
  return pages * 4096;
}

/// Eight threads that each do the same at once; how many of them have done it.
class Eight {
 public:
  explicit Eight(const std::function<void(unsigned)>& each) {
    for (unsigned i = 0; i != 8; ++i)
      threads_.emplace_back([this, each, i] {
        each(i);
        ++done_;
      });
  }
  ~Eight() { join(); }
  Eight(const Eight&) = delete;
  Eight& operator=(const Eight&) = delete;

  unsigned done() const { return done_; }
  void join() {
    for (std::thread& thread : threads_)
      if (thread.joinable()) thread.join();
  }

 private:
  std::atomic<unsigned> done_{0};
  std::vector<std::thread> threads_;
};

}  // namespace

TEST_CASE("an arena that its container has no room for is refused with the limit and its numbers, and leaves nothing") {
  const Files files;
  const Machine machine;
  const std::size_t before = mapped();
  for (const PinMethod pin : pin_methods) {
    files.container(100, 80);
    for (int i = 0; i != 4; ++i) {
      const std::string why = errc_text_of(Store::open(machine.device, options_for(30 * MiB, pin)), Errc::limit);
      CHECK(has(why, mib(30)));
      CHECK(has(why, "memory.max is " + mib(100) + ", of which " + mib(80) + " is in use"));
    }
    CHECK(machine.controls.calls(call_of(pin)) == 0);
    CHECK(machine.pinned() == 0);
    CHECK(mapped() < before + 30 * MiB);
    files.container(100, 50);
    {
      const OpenStore store(machine, 30 * MiB, 0, pin);
      CHECK(machine.controls.pinned_bytes() == 30 * MiB);
    }
    CHECK(machine.pinned() == 0);
  }
}

TEST_CASE("of an arena that takes several registrations none is made where all of it has no room") {
  const Files files;
  const Machine machine;
  StoreOptions options{.bytes = 20 * MiB, .max_bytes = 0, .region = {}, .largest = 4 * MiB};
  files.container(100, 86);
  CHECK(has(errc_text_of(Store::open(machine.device, options), Errc::limit), mib(86) + " is in use"));
  files.container(100, 0);
  options.region.numa_node = 0;
  files.node(0, 14);
  CHECK(has(errc_text_of(Store::open(machine.device, options), Errc::limit), "NUMA node 0 has " + mib(14)));
  CHECK(machine.controls.calls(SimulatedCall::register_host) == 0);
}

TEST_CASE("where the driver refuses memory that there is room for, the error says how much there was") {
  const Files files;
  const Machine machine;
  files.available(777);
  for (const PinMethod pin : pin_methods) {
    machine.backend->fail_call(call_of(pin), 1);
    const std::string why = errc_text_of(Store::open(machine.device, options_for(MiB, pin)), Errc::limit);
    CHECK(has(why, "the machine has " + mib(777) + " available"));
  }
}

TEST_CASE("an arena that names its NUMA node has that node's room, and not the machine's") {
  if constexpr (!config::numa) return;
  const Files files;
  const Machine machine;
  files.node(0, 40);
  files.node(1, 20);
  StoreOptions options = options_for(32 * MiB);
  options.region.numa_node = 1;
  CHECK(has(errc_text_of(Store::open(machine.device, options), Errc::limit), "NUMA node 1 has " + mib(20)));
  CHECK(machine.controls.calls(SimulatedCall::register_host) == 0);
  options.region.numa_node = 0;
  auto fits = Store::open(machine.device, options);
  REQUIRE(fits);
  (*fits)->close();
  options.region.numa_node = 2;
  CHECK(has(errc_text_of(Store::open(machine.device, options), Errc::invalid_argument), "there is no NUMA node 2"));
}

TEST_CASE("of memory that is adopted as much must have room as was never touched") {
  const Files files;
  const support::Rig rig;
  const Mapped memory(64 * MiB);
  madvise(memory.data(), 64 * MiB, MADV_NOHUGEPAGE);
  const std::size_t registered = rig.calls(SimulatedCall::register_host);
  int released = 0;
  const auto refused = [&](std::size_t wanted) {
    const auto arena = PinnedArena::try_adopt(rig.device, memory.span(), [&] { ++released; });
    const auto buffer = PinnedArena::try_adopt_buffer(rig.device, memory.span(), [&] { ++released; });
    for (const std::string& why : {errc_text_of(arena, Errc::limit), errc_text_of(buffer, Errc::limit)}) {
      CHECK(has(why, "cannot pin " + mib(wanted)));
      CHECK(has(why, "memory.max is " + mib(100)));
    }
    CHECK(rig.calls(SimulatedCall::register_host) == registered);
  };
  files.container(100, 50);
  refused(64);
  for (std::size_t at = 0; at != 48 * MiB; at += 4096) memory.data()[at] = std::byte{1};
  files.container(100, 90);
  refused(16);
  support::let_releases_pass(rig.device);
  CHECK(released == 0);
  files.container(100, 75);
  const support::Release release;
  { CHECK(PinnedArena::try_adopt(rig.device, memory.span(), support::Release(release).function())); }
  release.wait();
}

TEST_CASE("the room for what a call pins is reserved until the call is over") {
  const Files files;
  files.available(100);
  const Machine machine;
  const support::Rig rig;
  const Mapped untouched(32 * MiB);
  std::size_t left = 0;
  const auto look = [&] { left = unreserved_memory().bytes; };
  machine.backend->before_call(SimulatedCall::allocate_host, look);
  { const OpenStore store(machine, 32 * MiB, 0, PinMethod::host_alloc); }
  CHECK(left <= 68 * MiB);
  CHECK(left >= 67 * MiB);
  rig.sim().before_call(SimulatedCall::register_host, look);
  left = 0;
  { CHECK(PinnedArena::try_adopt(rig.device, untouched.span(), {})); }
  CHECK(left <= 68 * MiB);
  CHECK(left >= 67 * MiB);
  files.available(16);  // what is missing of it
  for (std::size_t at = 0; at != 32 * MiB; at += 4096) {
    if (at < 8 * MiB) continue;
    untouched.data()[at] = std::byte{1};
  }
  support::let_releases_pass(rig.device);
  rig.sim().before_call(SimulatedCall::register_host, look);
  left = 0;
  { CHECK(PinnedArena::try_adopt(rig.device, untouched.span(), {})); }
  CHECK(left <= 16 * MiB);
  CHECK(left >= 7 * MiB);
  CHECK(left < 16 * MiB);
  CHECK(unreserved_memory().bytes == 16 * MiB);
}

TEST_CASE("growth that a limit stops half-way is an error in words, and all that was made before is still good") {
  const Files files;
  const Machine machine;
  for (const PinMethod pin : pin_methods) {
    files.available(8192);
    const OpenStore store(machine, 4 * MiB, 64 * MiB, pin);
    Blocks blocks = fill(*store, MiB);
    CHECK(blocks.size() == 4);
    files.available(20);  // not for what it would like, but for what it needs
    REQUIRE(store->grow(8 * MiB, store->growths()));
    CHECK(store->capacity() == 12 * MiB);
    for (Block* const block : fill(*store, MiB)) blocks.push_back(block);
    for (std::size_t i = 0; i != blocks.size(); ++i) std::memset(blocks[i]->data, static_cast<int>(i), MiB);

    files.available(4);
    const std::string why = errc_text_of(store->grow(8 * MiB, store->growths()), Errc::limit);
    CHECK(has(why, mib(8)));
    CHECK(has(why, "the machine has " + mib(4) + " available"));
    CHECK(store->capacity() == 12 * MiB);
    CHECK(store->stats().grown == 1);
    CHECK(sound(*store, blocks));
    for (std::size_t i = 0; i != blocks.size(); ++i) CHECK(support::all_are(blocks[i]->data, MiB, static_cast<int>(i)));
    give(*store, blocks.back());
    CHECK((blocks.back() = take(*store, MiB, 64)) != nullptr);

    files.available(8192);
    REQUIRE(store->grow(8 * MiB, store->growths()));
    free_all(*store, blocks);
    CHECK(all_free(*store));
  }
}

TEST_CASE("a heap whose arena can grow no more says which limit stops it, and goes on with what there is") {
  const Files files;
  const support::Rig rig(support::stepped(), {.bytes = 16 * MiB, .max_bytes = 256 * MiB});
  files.container(100, 80);
  auto first = rig.heap.make_buffer<std::byte>(12 * MiB);
  support::fill(first, 5);
  const std::string why = errc_text_of(rig.heap.try_make_buffer<std::byte>(24 * MiB), Errc::out_of_memory);
  CHECK(has(why, mib(24)));
  CHECK(has(why, "memory.max is " + mib(100) + ", of which " + mib(80) + " is in use"));
  CHECK(rig.heap.try_make_buffer<std::byte>(MiB));
  CHECK(support::all_are(first, 5));
  files.container(100, 50);
  CHECK(rig.heap.try_make_buffer<std::byte>(24 * MiB));
}

TEST_CASE("pinning in the background stops at a limit, says which, and leaves what is pinned") {
  const Files files;
  const Machine machine;
  StoreOptions options = options_for(16 * MiB);
  options.piece = 4 * MiB;
  auto opened = Store::open(machine.device, options);
  REQUIRE(opened);
  Store& store = **opened;
  CHECK(store.pin_more());
  files.available(2);
  CHECK_FALSE(store.pin_more());
  CHECK(has(store.stats().pinning_failed, "the machine has " + mib(2) + " available"));
  CHECK(store.capacity() == 8 * MiB);
  Blocks blocks = fill(store, MiB);
  CHECK(blocks.size() == 8);
  free_all(store, blocks);
  store.close();
}

TEST_CASE("an arena waits while another thread touches what may be the last memory, and is refused once it is gone") {
  const Files files;
  const Machine machine;
  for (const PinMethod pin : pin_methods) {
    files.available(100);
    std::atomic<bool> done{false};
    std::optional<Result<Store*>> opened;
    std::thread other;
    {
      const MemoryReservation mine(60 * MiB, -1);
      REQUIRE(mine.granted());
      other = std::thread([&] {
        opened = Store::open(machine.device, options_for(60 * MiB, pin));
        done = true;
      });
      until([&] { return done || MemoryReservation::waiting() == 1; });
      CHECK_FALSE(done);
      files.available(40);  // as touching makes it
    }
    other.join();
    CHECK(has(errc_text_of(*opened, Errc::limit), "the machine has " + mib(40) + " available"));
    CHECK(machine.controls.calls(call_of(pin)) == 0);
  }
}

TEST_CASE("the records of an arena that is pinned wait for the room that other threads' memory leaves") {
  const Files files;
  const Machine machine;
  std::vector<Block*> records;
  std::optional<MemoryReservation> other_threads;
  for (const std::size_t left : {std::size_t{40}, std::size_t{1}}) {
    files.available(100);
    ask_limits_again();
    machine.backend->before_call(SimulatedCall::register_host, [&] {
      other_threads.emplace(60 * MiB, -1);
      files.available(40);  // it has touched its memory, and does not say so before it is over
      while (Block* const record = acquire_block()) records.push_back(record);
    });
    std::optional<Result<Store*>> opened;
    std::atomic<bool> done{false};
    std::thread thread([&] {
      opened = Store::open(machine.device, options_for(MiB));
      done = true;
    });
    until([&] { return done || MemoryReservation::waiting() == 1; });
    CHECK_FALSE(done);
    files.available(left);
    other_threads.reset();
    thread.join();
    if (left == 40) {
      REQUIRE(*opened);
      (**opened)->close();
    } else {
      const std::string why = errc_text_of(*opened, Errc::out_of_memory);
      CHECK(has(why, "no memory for the records of a region: the machine has " + mib(1)));
    }
    for (Block* const record : records) release_block(record);
    records.clear();
    trim_records();
    (void)machine.pinned();
  }
  ask_limits_again();
}

TEST_CASE("what has been touched is reserved no more") {
  const Files files;
  files.available(100);
  const Mapped memory(64 * MiB);
  MemoryReservation mine(64 * MiB, -1);
  REQUIRE(mine.granted());
  CHECK(unreserved_memory().bytes < 36 * MiB);
  touch(memory.data(), 64 * MiB, mine);
  CHECK(unreserved_memory().bytes == 100 * MiB - 64 * MiB / 256);  // the page tables, for which nobody knows when
  mine.touched(64 * MiB);                                          // more than there was
  CHECK(unreserved_memory().bytes == 100 * MiB);
}

TEST_CASE("eight threads that pin at once wait for each other, and are refused only where the memory is gone") {
  const Files files;
  const Machine machine;
  for (const std::size_t left : {std::size_t{100}, std::size_t{20}}) {
    files.available(100);
    std::atomic<unsigned> made{0};
    std::mutex mutex;
    std::vector<std::string> refusals;
    std::optional<MemoryReservation> mine(std::in_place, 80 * MiB, -1);
    REQUIRE(mine->granted());
    Eight eight([&](unsigned i) {
      auto opened = Store::open(machine.device, options_for(30 * MiB, pin_methods.at(i % 2)));
      const std::lock_guard lock(mutex);
      if (!opened) {
        refusals.emplace_back(opened.error().what());
        return;
      }
      ++made;
      (*opened)->close();
    });
    until([&] { return eight.done() + MemoryReservation::waiting() == 8; });
    CHECK(eight.done() == 0);
    files.available(left);
    mine.reset();
    eight.join();
    CHECK(made == (left == 100 ? 8 : 0));
    for (const std::string& why : refusals) CHECK(has(why, "the machine has " + mib(left) + " available"));
    CHECK(machine.pinned() == 0);
  }
}

TEST_CASE("of eight arenas that are made at once as many come to be as there is memory for") {
  const Files files;
  files.available(100);
  std::array<Machine, 8> machines;
  std::atomic<unsigned> pinning{0}, refused{0}, pinned{0};
  std::mutex mutex;
  std::size_t left = 100;
  const auto pins = [&] {
    ++pinning;
    // All have asked before the first has any.
    until([&] { return pinning + MemoryReservation::waiting() + refused == 8 || pinned != 0; });
    const std::lock_guard lock(mutex);
    files.available(left -= std::min<std::size_t>(left, 31));  // page tables and all
    ++pinned;
  };
  for (const Machine& machine : machines) machine.backend->before_call(SimulatedCall::allocate_host, pins);
  Eight eight([&](unsigned i) {
    auto opened = Store::open(machines.at(i).device, options_for(30 * MiB, PinMethod::host_alloc));
    if (opened)
      (*opened)->close();
    else
      ++refused;
  });
  eight.join();
  CHECK(pinned == 3);
  CHECK(refused == 5);
}
