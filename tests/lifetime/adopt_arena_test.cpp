// Arenas over memory that the program has, mapped files and shared memory, and what cannot be adopted. Limits, counts
// of calls and forked children are asked of the simulated device alone: a GPU has no such limit, counts nothing, and
// cannot be used in a child.

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <thole/thole.hpp>

#include "base/bytes.hpp"
#include "base/limits.hpp"
#include "memory/untouched.hpp"
#include "support/adopted.hpp"
#include "support/child.hpp"
#include "support/rig.hpp"
#include "support/sanitized.hpp"

using namespace support;

TEST_CASE("an arena over the program's pages serves buffers from all of them, and never grows") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  const Mapped memory(64 * page);
  const Release release;
  std::optional<Gate> gate;
  {
    auto arena = PinnedArena::adopt(rig.device, memory.span(), Release(release).function());
    CHECK(arena.capacity() == 64 * page);
    REQUIRE(arena.regions().size() == 1);
    CHECK(arena.regions().front().data() == memory.data());
    const PinnedHeap heap(arena);
    { CHECK(heap.try_make_buffer<std::byte>(64 * page)); }
    errc_text_of(heap.try_make_buffer<std::byte>(64 * page + 1), Errc::too_large);
    std::vector<PinnedBuffer<int>> many;
    for (;;) {
      auto made = heap.try_make_buffer<int>(100, 42);
      if (!made) break;
      CHECK(arena.contains(made->unsynchronized_data()));
      many.push_back(std::move(*made));
    }
    CHECK(many.size() == 64 * page / 448);
    gate.emplace(rig, stream);
    (void)many.front().async_to_device(stream);
    CHECK(arena.trim() == 0);
    errc_text_of(arena.try_view<int>(), Errc::invalid_argument);
  }
  if (rig.simulated()) let_releases_pass(rig.device);  // on a GPU unpinning waits for the copy
  CHECK(release.calls() == 0);
  gate->open();
  rig.settle(stream);
  release.wait();
  CHECK_FALSE(is_registered(rig.device, memory.data()));
}

TEST_CASE("a mapped file is adopted for reading only: views of all of it, which no call can write") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  std::FILE* const file = std::tmpfile();
  REQUIRE(file != nullptr);
  std::vector<int> numbers(5000);
  for (std::size_t i = 0; i != numbers.size(); ++i) numbers[i] = static_cast<int>(i);
  REQUIRE(std::fwrite(numbers.data(), sizeof(int), numbers.size(), file) == numbers.size());
  REQUIRE(std::fflush(file) == 0);
  const Mapped memory(numbers.size() * sizeof(int), PROT_READ, fileno(file));
  CHECK(has(
      errc_text_of(PinnedArena::try_adopt(rig.device, gsl::span(memory.data(), 4 * page), {}), Errc::invalid_argument),
      "writable unless the elements are const"));
  const Release release;
  {
    auto arena = PinnedArena::adopt(rig.device, memory.bytes(), Release(release).function());
    auto view = arena.view<int>();
    CHECK(view.size() == numbers.size());
    auto there = view.async_to_device(stream);
    const auto again = arena.view<unsigned char>();  // beside the copy
    CHECK(again.borrow()[4] == 1);
    CHECK(arena.stats().in_use == 2 * 20032);  // in lines of 64 bytes
    auto [head, tail] = std::move(view).split_at(1000);
    const auto back = there.async_to_host(stream, rig.heap);
    auto part = tail.async_to_device(stream);
    const auto tail_back = part.async_to_host(stream, rig.heap);
    rig.settle(stream);
    CHECK(std::ranges::equal(back.borrow(), numbers));
    CHECK(tail_back.borrow()[0] == 1000);
    errc_text([&] { (void)PinnedHeap(arena); }, Errc::invalid_argument);
    errc_text_of(arena.try_view<std::array<int, 3>>(), Errc::invalid_argument);  // no whole number
    let_releases_pass(rig.device);
    CHECK(release.calls() == 0);
  }
  release.wait();
  const Release of_buffer;
  {
    const auto buffer = PinnedArena::adopt_buffer(
        rig.device, gsl::span<const int>(reinterpret_cast<const int*>(memory.data()), numbers.size()),
        Release(of_buffer).function());
    int first = -1;
    use_on(stream, reads(buffer), [&](const int* data, NativeStream) { first = data[7]; });
    CHECK(first == 7);
    rig.settle(stream);
    CHECK(buffer.borrow()[4999] == 4999);
  }
  of_buffer.wait();
  std::fclose(file);
}

TEST_CASE("what cannot be adopted stays the caller's, in clear words, and is never released") {
  const Rig rig(under_test());
  const Mapped memory(4 * page);
  const auto holders = [&] { return detail::HandleAccess::core(rig.device).use_count(); };
  const auto before = holders();
  int calls = 0;
  const auto count = [&] { ++calls; };
  const auto refused = [&](gsl::span<std::byte> span) {
    return errc_text_of(PinnedArena::try_adopt(rig.device, span, count), Errc::invalid_argument);
  };
  CHECK(has(refused(memory.span().subspan(8)), "is not whole pages"));
  CHECK(has(refused(memory.span().subspan(0, 100)), "span of 100 bytes"));
  CHECK(has(refused(memory.span().subspan(0, page + 1)), "is not whole pages"));
  CHECK(has(refused({}), "empty span"));
  CHECK(
      has(errc_text_of(PinnedArena::try_adopt(rig.device, gsl::span<const std::byte>(), count), Errc::invalid_argument),
          "empty span"));
  CHECK(has(errc_text_of(PinnedArena::try_adopt_buffer(rig.device, gsl::span<int>(), count), Errc::invalid_argument),
            "empty span"));

  // Pinned by the program already, all of it or some.
  REQUIRE(rig.backend().register_host(memory.data() + page, page).ok());
  CHECK(has(refused(memory.span()), "AlreadyRegistered"));
  CHECK(has(refused(memory.span()), "already_pinned"));
  CHECK(has(errc_text_of(PinnedArena::try_adopt_buffer(rig.device, memory.span(), count), Errc::invalid_argument),
            "AlreadyRegistered"));
  REQUIRE(rig.backend().unregister_host(memory.data() + page).ok());

  // Adopted twice, and memory of an arena's.
  {
    const auto buffer = PinnedArena::adopt_buffer(rig.device, memory.span(), {});
    CHECK(has(refused(memory.span()), "AlreadyRegistered"));
  }
  let_releases_pass(rig.device);
  CHECK(has(refused(rig.arena.regions().front()), "AlreadyRegistered"));

  // With a hole, or no right to write.
  REQUIRE(mprotect(memory.data() + page, page, PROT_READ) == 0);
  CHECK(has(refused(memory.span()), "must be mapped, and be writable"));
  REQUIRE(mprotect(memory.data() + page, page, PROT_NONE) == 0);
  errc_text_of(PinnedArena::try_adopt(rig.device, memory.bytes(), count), Errc::invalid_argument);
  REQUIRE(mprotect(memory.data() + page, page, PROT_READ | PROT_WRITE) == 0);

  // The device may pin no more: a GPU always may.
  if (rig.simulated()) {
    rig.sim().fail_call(SimulatedCall::register_host, 1);
    errc_text_of(PinnedArena::try_adopt(rig.device, memory.span(), count), Errc::limit);
    rig.sim().fail_call(SimulatedCall::register_host, 1);
    errc_text_of(PinnedArena::try_adopt_buffer(rig.device, memory.span(), count), Errc::limit);
  }

  let_releases_pass(rig.device);
  until([&] { return holders() <= before; });  // nothing is left behind that would keep the device
  CHECK(calls == 0);
  if (rig.simulated()) CHECK(rig.sim().pinned_bytes() == MiB);
  const Release release;
  CHECK(PinnedArena::try_adopt(rig.device, memory.span(), Release(release).function()));  // and nothing is in the way
  release.wait();
}

TEST_CASE("memory that was never touched, and that the machine does not have, is refused before it is pinned") {
  const Rig rig;
  // Others on the machine may give memory back meanwhile. Drivers' own limit says the same where it is met first.
  const std::size_t bytes = detail::whole_pages(2 * detail::memory_room().bytes);
  void* const data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  REQUIRE(data != MAP_FAILED);
  const gsl::span<std::byte> untouched(static_cast<std::byte*>(data), bytes);
  CHECK(detail::bytes_without_memory(untouched.data(), 64 * MiB) == 64 * MiB);
  for (std::size_t at = 0; at != MiB; at += page) untouched[at] = std::byte{1};
  const std::size_t missing = detail::bytes_without_memory(untouched.data() + 5, 4 * MiB);  // the page after, too
  CHECK(missing <= 3 * MiB + page);                                                         // less with huge pages
  CHECK(missing < 4 * MiB);
  const std::size_t before = rig.calls(SimulatedCall::register_host);
  errc_text_of(PinnedArena::try_adopt(rig.device, untouched, {}), Errc::limit);
  CHECK(rig.calls(SimulatedCall::register_host) == before);
  munmap(data, bytes);
}

TEST_CASE("memory that the program has pinned is neither pinned nor unpinned") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  const Mapped memory(4 * page);
  REQUIRE(rig.backend().register_host(memory.data(), 4 * page).ok());
  const std::size_t registered = rig.simulated() ? rig.calls(SimulatedCall::register_host) : 0;
  const Release of_buffer, of_arena;
  {
    auto buffer = PinnedArena::adopt_buffer(rig.device, memory.span().subspan(0, 2 * page),
                                            Release(of_buffer).function(), {.already_pinned = true});
    const PinnedHeap heap(PinnedArena::adopt(rig.device, memory.span().subspan(2 * page), Release(of_arena).function(),
                                             {.already_pinned = true}));
    fill(buffer, 8);
    auto there = buffer.async_to_device(stream);
    const auto back = there.async_to_host(stream, heap);
    rig.settle(stream);
    CHECK(all_are(back, 8));
  }
  of_buffer.wait();
  of_arena.wait();
  if (rig.simulated()) {
    CHECK(rig.calls(SimulatedCall::register_host) == registered);
    CHECK(rig.calls(SimulatedCall::unregister_host) == 0);
  }
  CHECK(is_registered(rig.device, memory.data()));
  REQUIRE(rig.backend().unregister_host(memory.data()).ok());
}

// A sanitizer cannot follow a child that starts threads.
TEST_CASE("two processes use one stretch of /dev/shm, and each registers its own view" *
          doctest::skip(THOLE_TEST_SANITIZED)) {
  const int file = memfd_create("thole_adopt", 0);  // which is /dev/shm without a name
  REQUIRE(file >= 0);
  REQUIRE(ftruncate(file, 16 * page) == 0);
  const auto use = [&](int seen, int written) {  // on a device of the process's own
    const Rig rig;
    const Stream stream(rig.device);
    const Mapped view(16 * page, PROT_READ | PROT_WRITE, file);
    const Release release;
    bool right = false;
    {
      auto buffer = PinnedArena::adopt_buffer(rig.device, view.span(), Release(release).function());
      auto there = buffer.async_to_device(stream);
      const auto back = there.async_to_host(stream, PinnedHeap(PinnedArena(rig.device, {.bytes = MiB})));
      rig.settle(stream);
      right = all_are(back, seen) && rig.sim().pinned_bytes() >= 16 * page;
      fill(buffer, written);
    }
    release.wait();
    return right;
  };
  CHECK(use(0, 1));
  const Rig rig;
  const Mapped view(16 * page, PROT_READ | PROT_WRITE, file);
  auto held = PinnedArena::adopt_buffer(rig.device, view.span(), {});  // while this process has it pinned, too
  CHECK(in_child([&] { return use(1, 2) ? 0 : 1; }) == 0);
  CHECK(all_are(held, 2));
  fill(held, 3);
  CHECK(in_child([&] { return use(3, 4) ? 0 : 1; }) == 0);
  CHECK(all_are(held, 4));
  held = {};
  let_releases_pass(rig.device);
  close(file);
}

TEST_CASE("a forked child never releases its parent's memory" * doctest::skip(THOLE_TEST_SANITIZED)) {
  const Rig rig;
  std::vector<int> data(10);
  const Release release;
  auto buffer = PinnedArena::adopt_buffer(rig.device, gsl::span<int>(data), Release(release).function());
  CHECK(in_child([&] {
          buffer = {};
          let_releases_pass(stepped());
          return release.calls();
        }) == 0);
  buffer = {};
  release.wait();
  CHECK(release.calls() == 1);
}
