// Regions: what is pinned, what is said when it cannot be, and what is left behind.

#include <sys/resource.h>

#include <cstdint>
#include <string>

#include <thole/config.hpp>

#include "base/limits.hpp"
#include "fixture.hpp"
#include "support/sanitized.hpp"

using namespace memory_test;

namespace {

Error refusal(const Machine& machine, const StoreOptions& options) {
  auto opened = Store::open(machine.device, options);
  REQUIRE_FALSE(opened);
  return opened.error();
}

bool says(const Error& error, const std::string& text) {
  return std::string(error.what()).find(text) != std::string::npos;
}

}  // namespace

TEST_CASE("a region starts where the profile wants it and is exactly as large as asked, in whole pages") {
  const Machine machine;
  for (const std::size_t bytes : {std::size_t{1}, std::size_t{4097}, 3 * MiB + 17, 260 * MiB + 1}) {
    auto region = pin_region(machine.device, (bytes + 4095) / 4096 * 4096, {});
    REQUIRE(region);
    CHECK(machine.controls.pinned_bytes() == (bytes + 4095) / 4096 * 4096);
    if (bytes > 256 * MiB) CHECK(reinterpret_cast<std::uintptr_t>((*region)->data) % config::region_alignment == 0);
    bool stays = true;
    CHECK(unpin_region(*region, *machine.backend, &stays).ok());
    CHECK(!stays);
    CHECK(machine.controls.pinned_bytes() == 0);
  }
}

TEST_CASE("closing a store gives all its memory back, whatever the method of pinning") {
  const Machine machine;
  for (const PinMethod pin : {PinMethod::register_pages, PinMethod::host_alloc}) {
    {
      const OpenStore store(machine, 5 * MiB, 0, pin);
      Blocks blocks = fill(*store, 100000);
      for (Block* block : blocks) block->data[0] = std::byte{1};
      CHECK(sound(*store, blocks, 64));
      CHECK(blocks.size() > 45);
      free_all(*store, blocks);
      CHECK(machine.controls.pinned_bytes() == 5 * MiB);
    }
    CHECK(machine.pinned() == 0);
  }
}

TEST_CASE("a limit on pinned memory is an error that tells the limit and how much was wanted, and leaves nothing") {
  SimulationOptions options;
  options.max_pinned_bytes = 3 * MiB;
  const Machine machine(options);
  for (const PinMethod pin : {PinMethod::register_pages, PinMethod::host_alloc}) {
    const Error error = refusal(machine, {4 * MiB, 0, {pin, -1}});
    CHECK(error.errc() == Errc::limit);
    CHECK(says(error, "4194304 bytes (4 MiB)"));
    CHECK(says(error, "simulatedErrorPinnedLimit"));
    CHECK(says(error, "MemAvailable"));
    CHECK_FALSE(says(error, "RLIMIT_MEMLOCK"));  // which no driver asks
    CHECK(machine.pinned() == 0);
  }
  const OpenStore fits(machine, 3 * MiB);
  CHECK(fits->capacity() == 3 * MiB);
}

TEST_CASE("memory that closed arenas have not given back yet does not make the next one fail") {
  SimulationOptions options;
  options.max_pinned_bytes = 8 * MiB;
  const Machine machine(options);
  for (int i = 0; i < 50; ++i) const OpenStore store(machine, 8 * MiB);
  CHECK(machine.pinned() == 0);
}

TEST_CASE("more than the machine has is refused before anything is pinned, however many registrations it would take") {
  const Machine machine;
  for (const std::size_t bytes : {512 * GiB, std::size_t{1} << 62, SIZE_MAX}) {
    const Error error = refusal(machine, {bytes, 0, {}});
    CHECK(error.errc() == Errc::limit);
    CHECK(says(error, std::to_string(whole_pages(bytes))));
    CHECK(says(error, "the machine has"));
    CHECK_FALSE(says(error, "RLIMIT_MEMLOCK"));
  }
  CHECK(machine.controls.calls(SimulatedCall::register_host) == 0);
  const auto region = pin_region(machine.device, 512 * GiB, {});
  REQUIRE_FALSE(region);
  CHECK(says(region.error(), "512 GiB and more at once"));
}

TEST_CASE("an arena that is larger than drivers register at once has several regions, and no block crosses two") {
  const Machine machine;
  CHECK(StoreOptions{}.largest < 512 * GiB);
  auto opened =
      Store::open(machine.device, {.bytes = 10 * MiB, .max_bytes = 20 * MiB, .region = {}, .largest = 4 * MiB});
  REQUIRE(opened);
  Store& store = **opened;
  CHECK(store.capacity() == 10 * MiB);
  CHECK(store.stats().regions == 3);
  CHECK(store.stats().grown == 0);
  CHECK(store.stats().to_pin == 0);
  CHECK(store.largest_possible() == 4 * MiB);
  CHECK(take(store, 4 * MiB + 1, 64) == nullptr);
  Blocks blocks = fill(store, 3 * MiB);
  CHECK(blocks.size() == 2);
  REQUIRE(store.grow(4 * MiB, store.growths()));
  CHECK(store.trim() != 0);
  CHECK(store.capacity() == 10 * MiB);
  free_all(store, blocks);
  CHECK(store.trim() == 0);  // all of it is what the arena began with
  store.close();
  CHECK(machine.controls.calls(SimulatedCall::register_host) == 4);
  CHECK(machine.pinned() == 0);
}

TEST_CASE("where one of several registrations fails nothing is left, and the error has its numbers") {
  const Machine machine({.max_pinned_bytes = 6 * MiB});
  const Error error = refusal(machine, {.bytes = 10 * MiB, .max_bytes = 0, .region = {}, .largest = 4 * MiB});
  CHECK(error.errc() == Errc::limit);
  CHECK(says(error, std::to_string(4 * MiB)));
  CHECK(says(error, "a part of an arena of 10485760 bytes"));
  CHECK(machine.pinned() == 0);
}

TEST_CASE("the room that the system has is known, and its limit has a name") {
  const MemoryRoom room = memory_room();
  CHECK(room.bytes > 0);
  CHECK_FALSE(room.limit.empty());
  CHECK(bytes_text(1) == "1 byte");
  CHECK(bytes_text(GiB) == "1073741824 bytes (1 GiB)");
}

#if !THOLE_TEST_SANITIZED  // which maps memory itself, and dies of the limit
TEST_CASE("where addresses are limited, a region that does not fit is refused and the rest goes on") {
  const Machine machine;
  rlimit before{};
  getrlimit(RLIMIT_AS, &before);
  rlimit tight = before;
  tight.rlim_cur = 1;  // nothing more may be mapped
  setrlimit(RLIMIT_AS, &tight);
  auto region = pin_region(machine.device, 64 * MiB, {});
  setrlimit(RLIMIT_AS, &before);
  REQUIRE_FALSE(region);
  CHECK(region.error().errc() == Errc::limit);
  CHECK(says(region.error(), "67108864 bytes (64 MiB)"));
  const OpenStore store(machine, 1 * MiB);
  CHECK(machine.controls.pinned_bytes() == 1 * MiB);
}
#endif

TEST_CASE("a driver that refuses to register leaves nothing mapped, and the next arena works") {
  Machine machine;
  for (const auto& [pin, call] : {std::pair{PinMethod::register_pages, SimulatedCall::register_host},
                                  std::pair{PinMethod::host_alloc, SimulatedCall::allocate_host}}) {
    CHECK(machine.pinned() == 0);  // else an earlier arena's memory serves
    machine.controls.fail_call(call, 1);
    const Error error = refusal(machine, {1 * MiB, 0, {pin, -1}});
    CHECK(error.errc() == Errc::limit);
    CHECK(machine.pinned() == 0);
    const OpenStore store(machine, 1 * MiB, 0, pin);
    CHECK(machine.controls.pinned_bytes() == 1 * MiB);
  }
}

TEST_CASE("a lost device pins nothing, and says so") {
  Machine machine;
  machine.controls.lose_device();
  const Error error = refusal(machine, {1 * MiB, 0, {PinMethod::register_pages, -1}});
  CHECK(error.errc() == Errc::device_lost);
}

TEST_CASE("a NUMA node that does not exist is a bad argument; node 0 does") {
  const Machine machine;
  const Error error = refusal(machine, {1 * MiB, 0, {PinMethod::register_pages, 1000}});
  CHECK(error.errc() == Errc::invalid_argument);
  CHECK(says(error, "1000"));
  if constexpr (config::numa) {
    auto opened = Store::open(machine.device, {1 * MiB, 0, {PinMethod::register_pages, 0}});
    REQUIRE(opened);
    (*opened)->close();
  }
  CHECK(machine.pinned() == 0);
}

TEST_CASE("10,000 arenas in a row and 100 at once work in one process, and leave nothing pinned") {
  const Machine machine;
  for (std::size_t i = 0; i < 10000; ++i) {
    const OpenStore store(machine, 1 + i % 3 * 4096);
    Block* const block = take(*store, 64, 64);
    REQUIRE(block != nullptr);
    block->data[0] = std::byte{1};
    give(*store, block);
  }
  CHECK(machine.pinned() == 0);
  std::vector<std::unique_ptr<OpenStore>> stores;
  Blocks blocks;
  for (int i = 0; i < 100; ++i) {
    stores.push_back(std::make_unique<OpenStore>(machine, 1 * MiB));
    blocks.push_back(take(**stores.back(), 1000, 64));
    REQUIRE(blocks.back() != nullptr);
  }
  CHECK(machine.controls.pinned_bytes() == 100 * MiB);
  for (std::size_t i = 0; i < 100; ++i) give(**stores[i], blocks[i]);
  stores.clear();
  CHECK(machine.pinned() == 0);
}
