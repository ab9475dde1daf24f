// THOLE_LEAKS=1: what a program still has when it ends is named on stderr. No device takes part: it is a simulated one.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <thole/graph.hpp>
#include <thole/thole.hpp>

#include "support/child.hpp"
#include "support/sanitized.hpp"

using namespace thole;

namespace {

/// What a child that ends as any program writes to stderr.
template <class F>
std::string said_by_child(const char* variable, F f) {
  std::string name = (std::filesystem::temp_directory_path() / "thole-leaks-XXXXXX").string();
  const int file = mkstemp(name.data());
  REQUIRE(file >= 0);
  CHECK(support::in_child([&] {
          dup2(file, STDERR_FILENO);
          if (variable != nullptr) setenv("THOLE_LEAKS", variable, 1);
          f();
          return 0;
        }) == 0);
  close(file);
  std::ifstream in(name);
  std::string said((std::istreambuf_iterator<char>(in)), {});
  std::filesystem::remove(name);
  return said;
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

using Bytes = PinnedBuffer<std::byte>;

// Reachable, so that no leak checker finds them.
std::vector<Bytes>* leaked = nullptr;
void* raw = nullptr;

/// Two buffers of one place and one of another are leaked, in two arenas, and others are not.
void leak() {
  const auto device = Device::simulated({.stepped = true});
  const PinnedHeap heap(PinnedArena(device, {.bytes = 1 << 20})), other(PinnedArena(device, {.bytes = 1 << 21}));
  static const auto of_a_static = heap.make_buffer<std::byte>(4096);  // destroyed before the library's end
  leaked = new std::vector<Bytes>;
  for (int i = 0; i != 2; ++i) leaked->push_back(heap.make_buffer<std::byte>(4096));
  raw = other.allocate(8192);
  (void)heap.make_buffer<std::byte>(100);
}

}  // namespace

TEST_CASE("where THOLE_LEAKS is 1 the end of a process names what it never dropped: arenas, places and bytes" *
          doctest::skip(THOLE_TEST_SANITIZED)) {
  const std::string said = said_by_child("1", leak);
  CHECK(has(said, "thole: leaked in an arena of 1048576 bytes on simulated: 2 buffers, 8192 bytes\n"));
  CHECK(has(said, "thole: leaked in an arena of 2097152 bytes on simulated: 1 buffer, 8192 bytes\n"));
  CHECK(has(said, "leaks_test.cpp:"));
  CHECK(has(said, ": 2 buffers, 8192 bytes\n"));
  CHECK_FALSE(has(said, "100 bytes"));
}

TEST_CASE("a process that leaks nothing, or was not asked, says nothing" * doctest::skip(THOLE_TEST_SANITIZED)) {
  CHECK(said_by_child("1", [] {
          const PinnedHeap heap(PinnedArena(Device::simulated({.stepped = true}), {.bytes = 1 << 20}));
          (void)heap.make_buffer<std::byte>(100);
        }).empty());
  CHECK(said_by_child("0", leak).empty());
  CHECK(said_by_child(nullptr, leak).empty());
}

TEST_CASE("what a graph held that was dropped right before the end is no leak" * doctest::skip(THOLE_TEST_SANITIZED)) {
  for (int i = 0; i != 20; ++i)
    CHECK(said_by_child("1", [] {
            const auto device = Device::simulated();
            const PinnedHeap heap(PinnedArena(device, {.bytes = 1 << 20}));
            const Stream stream(device);
            DeviceBuffer<std::byte> memory(stream, 4096);
            const auto buffer = heap.make_buffer<std::byte>(4096, std::byte{1});
            auto exec = capture(stream, [&] { buffer.async_to_device(stream, memory.span()); }).instantiate();
            exec.launch(stream);
            stream.synchronize();
          }).empty());
}

TEST_CASE("a forked child that ends says nothing of what its parent has" * doctest::skip(THOLE_TEST_SANITIZED)) {
  const PinnedHeap heap(PinnedArena(Device::simulated({.stepped = true}), {.bytes = 1 << 20}));
  const auto buffer = heap.make_buffer<std::byte>(100);
  CHECK(said_by_child("1", [] { (void)PinnedArena(Device::simulated({.stepped = true}), {.bytes = 4096}); }).empty());
}
