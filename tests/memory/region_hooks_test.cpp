// What an arena tells the program of its regions, and what the functions that are told may do. Where a case looks at
// how much is pinned while a function is told, or forks, it needs the simulated device.

#include <doctest/doctest.h>

#include <algorithm>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <thole/thole.hpp>

#include "support/child.hpp"
#include "support/rig.hpp"

using namespace support;

namespace {

using Span = gsl::span<std::byte>;

/// What some library has registered: it refuses what it has, and what it never had. Safe from several threads.
class Registry {
 public:
  void add(Span span) {
    const std::scoped_lock lock(mutex_);
    CHECK_FALSE(find(span));
    spans_.push_back(span);
    ++added_;
  }
  void remove(Span span) {
    const std::scoped_lock lock(mutex_);
    CHECK(find(span));
    std::erase_if(spans_, [&](Span one) { return one.data() == span.data(); });
    ++removed_;
  }
  std::vector<Span> spans() const {
    const std::scoped_lock lock(mutex_);
    return spans_;
  }
  int added() const { return counted(added_); }
  int removed() const { return counted(removed_); }

 private:
  int counted(const int& count) const {
    const std::scoped_lock lock(mutex_);
    return count;
  }
  bool find(Span span) const {
    return std::ranges::any_of(spans_,
                               [&](Span one) { return one.data() == span.data() && one.size() == span.size(); });
  }

  mutable std::mutex mutex_;
  std::vector<Span> spans_;
  int added_ = 0, removed_ = 0;
};

bool same(const std::vector<Span>& one, const std::vector<Span>& other) {
  return std::ranges::is_permutation(one, other,
                                     [](Span a, Span b) { return a.data() == b.data() && a.size() == b.size(); });
}

/// Says when the functions that hold a copy of `held` are gone: the arena is told no more.
class Ending {
 public:
  Ending() : promise_(std::make_shared<Last>()), ended_(promise_->promise.get_future()) {}
  std::shared_ptr<void> held() { return std::exchange(promise_, nullptr); }
  void wait() { ended_.wait(); }

 private:
  struct Last {
    ~Last() { promise.set_value(); }
    std::promise<void> promise;
  };
  std::shared_ptr<Last> promise_;
  std::future<void> ended_;
};

struct Watched {
  explicit Watched(Registry& registry, std::size_t bytes = MiB, std::size_t max_bytes = 100 * MiB) {
    options.bytes = bytes;
    options.max_bytes = max_bytes;
    options.on_region_added = [&registry, held = ending.held()](Span span) { registry.add(span); };
    options.on_region_removed = [&registry](Span span) { registry.remove(span); };
  }
  Ending ending;
  ArenaOptions options;
};

}  // namespace

TEST_CASE("an arena tells of each region before its first use and of each that it lets go of, and lists what it has") {
  Registry registry;
  Watched watched(registry);
  {
    auto arena = std::make_unique<PinnedArena>(under_test(), watched.options);
    watched.options = {};
    CHECK(registry.added() == 1);
    CHECK(same(arena->regions(), registry.spans()));
    CHECK(arena->regions().front().size() == MiB);
    const PinnedHeap heap(*arena);
    {
      const auto large = heap.make_buffer<std::byte>(40 * MiB);
      CHECK(registry.added() == 2);
      const auto spans = registry.spans();
      CHECK(same(arena->regions(), spans));
      CHECK(std::ranges::any_of(spans, [&](Span span) {
        return large.unsynchronized_data() >= span.data() &&
               large.unsynchronized_data() + large.size() <= span.data() + span.size();
      }));
    }
    CHECK(heap.try_make_buffer<std::byte>(90 * MiB));  // the region of 40 MiB makes way
    CHECK(registry.added() == 3);
    CHECK(registry.removed() == 1);
    CHECK(same(arena->regions(), registry.spans()));
    CHECK(arena->trim() == arena->stats().max_capacity - MiB);
    CHECK(registry.removed() == 2);
    CHECK(same(arena->regions(), registry.spans()));
    CHECK(arena->regions().size() == 1);
  }
  watched.ending.wait();
  CHECK(registry.removed() == 3);
  CHECK(registry.spans().empty());
}

TEST_CASE("a region that an arena has let go of, and that stayed pinned, is told anew") {
  Device device = under_test();
  device.trim_pinned();
  Registry registry;
  const std::byte* first = nullptr;
  for (int round = 1; round != 4; ++round) {
    Watched watched(registry);
    {
      const PinnedArena arena(device, watched.options);
      watched.options = {};
      CHECK(registry.added() == round);
      if (first == nullptr) first = arena.regions().front().data();
      CHECK(arena.regions().front().data() == first);
    }
    watched.ending.wait();
    CHECK(registry.removed() == round);
    CHECK(device.kept_pinned() == MiB);
  }
}

TEST_CASE("while a copy is in flight the arena is not told that its memory goes") {
  const Rig rig(under_test());
  Device device = rig.device;
  device.trim_pinned();
  const Stream stream(device);
  Gate gate(rig, stream);
  Registry registry;
  Watched watched(registry);
  std::optional<DeviceBuffer<std::byte>> there;
  {
    const PinnedHeap heap(PinnedArena(device, watched.options));
    watched.options = {};
    there.emplace(heap.make_buffer<std::byte>(KiB, std::byte{1}).async_to_device(stream));
  }
  {  // what is told in its turn would have been told before this
    Watched other(registry);
    { const PinnedArena arena(device, other.options); }
    other.options = {};
    other.ending.wait();
  }
  CHECK(registry.removed() == 1);
  CHECK(registry.spans().size() == 1);
  gate.open();
  rig.settle(stream);
  watched.ending.wait();
  CHECK(registry.removed() == 2);
}

TEST_CASE("where on_region_added throws there is no arena and no growth, and nothing is lost") {
  const Device device = stepped();
  bool refuse = true;
  Registry registry;
  Ending ending;
  ArenaOptions options{.bytes = MiB, .max_bytes = 8 * MiB};
  options.on_region_added = [&, held = ending.held()](Span span) {
    if (refuse) throw std::runtime_error("no more keys");
    registry.add(span);
  };
  options.on_region_removed = [&](Span span) { registry.remove(span); };
  const auto none = PinnedArena::try_make(device, options);
  const std::string text = errc_text_of(none, Errc::limit);
  CHECK(has(text, "on_region_added"));
  CHECK(has(text, "no more keys"));
  CHECK(device.kept_pinned() == MiB);
  CHECK(device.simulation().pinned_bytes() == MiB);

  refuse = false;
  {
    const PinnedArena arena(device, std::exchange(options, {}));
    const PinnedHeap heap(arena);
    CHECK(device.kept_pinned() == 0);
    const auto kept = heap.make_buffer<std::byte>(MiB, std::byte{7});
    refuse = true;
    const std::string grown = errc_text_of(heap.try_make_buffer<std::byte>(2 * MiB), Errc::out_of_memory);
    CHECK(has(grown, "no more keys"));
    CHECK(arena.capacity() == MiB);
    CHECK(arena.regions().size() == 1);
    CHECK(device.kept_pinned() + MiB == device.simulation().pinned_bytes());
    CHECK(registry.removed() == 0);
    CHECK(all_are(kept, 7));
    refuse = false;
    CHECK(heap.try_make_buffer<std::byte>(2 * MiB));
    CHECK(arena.regions().size() == 2);
  }
  ending.wait();
  CHECK(registry.added() == 2);
  CHECK(registry.removed() == 2);
}

TEST_CASE("on_region_removed is told while the region is still pinned") {
  const Device device = stepped();
  std::vector<std::size_t> pinned;
  Ending ending;
  ArenaOptions options{.bytes = MiB, .max_bytes = 8 * MiB};
  options.on_region_removed = [&, held = ending.held()](Span) { pinned.push_back(device.simulation().pinned_bytes()); };
  {
    PinnedArena arena(device, std::exchange(options, {}));
    const PinnedHeap heap(arena);
    (void)heap.make_buffer<std::byte>(2 * MiB);
    const std::size_t before = device.simulation().pinned_bytes();
    arena.trim();
    CHECK(pinned == std::vector{before});
    CHECK(device.simulation().pinned_bytes() < before);
  }
  ending.wait();
}

TEST_CASE("an Error that on_region_added throws keeps its code, and what is no exception is told of, too") {
  const Device device = under_test();
  ArenaOptions options{.bytes = MiB};
  options.on_region_added = [](Span) { throw Error(Errc::too_large, "my own words"); };
  CHECK(has(errc_text_of(PinnedArena::try_make(device, options), Errc::too_large), "my own words"));
  options.on_region_added = [](Span) { throw 5; };
  CHECK(has(errc_text_of(PinnedArena::try_make(device, options), Errc::limit), "on_region_added"));
  errc_text([&] { (void)PinnedArena(device, options); }, Errc::limit);
}

TEST_CASE("what on_region_removed throws can be asked for, and ends nothing") {
  Device device = under_test();
  device.trim_pinned();
  (void)device.take_error();  // of an earlier test's
  Ending ending;
  ArenaOptions options{.bytes = MiB, .max_bytes = 100 * MiB};
  options.on_region_removed = [held = ending.held()](Span) { throw std::runtime_error("still mapped elsewhere"); };
  {
    PinnedArena arena(device, options);
    options = {};
    CHECK(PinnedHeap(arena).try_make_buffer<std::byte>(40 * MiB));
    CHECK(arena.trim() >= 40 * MiB);  // it goes all the same
    const auto told = device.take_error();
    REQUIRE(told);
    CHECK(has(told->what(), "on_region_removed"));
    CHECK(has(told->what(), "still mapped elsewhere"));
    CHECK(arena.regions().size() == 1);
  }
  ending.wait();
  const auto told = device.take_error();
  REQUIRE(told);
  CHECK(has(told->what(), "still mapped elsewhere"));
  CHECK(device.kept_pinned() == MiB);
}

TEST_CASE("a function that is told may use other arenas and look at its own, but not make that grow or trim it") {
  const Device device = under_test();
  const PinnedHeap other(PinnedArena(device, {.bytes = MiB, .max_bytes = 64 * MiB}));
  std::optional<PinnedArena> own;
  std::string growth, trim;
  std::size_t seen = 0, from_others = 0;
  const auto look = [&](Span) {
    if (!own) return;
    PinnedArena arena = *own;
    seen = arena.regions().size() + arena.stats().regions;
    CHECK(PinnedHeap(arena).try_make_buffer<std::byte>(KiB));  // there is room
    growth = errc_text_of(PinnedHeap(arena).try_make_buffer<std::byte>(3 * MiB), Errc::out_of_memory);
    trim = errc_text([&] { arena.trim(); }, Errc::invalid_argument);
    from_others += other.make_buffer<std::byte>(2 * MiB).size();  // which grows
    PinnedArena elsewhere = other.arena();
    elsewhere.trim();
  };
  Ending ending;
  ArenaOptions options{.bytes = MiB, .max_bytes = 64 * MiB};
  options.on_region_added = [&, held = ending.held()](Span span) { look(span); };
  options.on_region_removed = look;
  own.emplace(device, std::exchange(options, {}));
  CHECK(PinnedHeap(*own).try_make_buffer<std::byte>(3 * MiB));
  CHECK(seen == 2);
  CHECK(from_others == 2 * MiB);
  CHECK(has(growth, "must not make their own arena grow"));
  CHECK(has(trim, "must not trim"));
  growth.clear();
  CHECK(own->trim() != 0);
  CHECK(from_others == 4 * MiB);
  CHECK(has(growth, "must not make their own arena grow"));
  std::exchange(own, std::nullopt).reset();
  ending.wait();
}

TEST_CASE("one arena's function makes another arena grow whose function wants the first: an error, not a deadlock") {
  const Device device = under_test();
  std::optional<PinnedHeap> first, second;
  std::string text;
  const auto in_second = [&](Span) {
    if (first) text = errc_text_of(first->try_make_buffer<std::byte>(9 * MiB), Errc::out_of_memory);
  };
  const auto in_first = [&](Span) {
    if (first) CHECK(second->try_make_buffer<std::byte>(3 * MiB));
  };
  const ArenaOptions options{.bytes = MiB, .max_bytes = 64 * MiB};
  ArenaOptions of_first = options, of_second = options;
  of_first.on_region_added = in_first;
  of_second.on_region_added = in_second;
  second.emplace(PinnedArena(device, of_second));
  first.emplace(PinnedArena(device, of_first));
  CHECK(first->try_make_buffer<std::byte>(5 * MiB));
  CHECK(has(text, "must not make their own arena grow"));
}

TEST_CASE("a forked child tells nobody of its parent's regions" * doctest::skip(THOLE_TEST_SANITIZED)) {
  const Device device = stepped();
  Registry registry;
  Watched watched(registry);
  std::optional<PinnedArena> arena;
  arena.emplace(device, std::exchange(watched.options, {}));
  CHECK(in_child([&] {
          arena.reset();
          // One of the child's own is told after whatever was to be told before.
          Registry own;
          Watched later(own);
          { const PinnedArena arena_of_child(stepped(), std::exchange(later.options, {})); }
          later.ending.wait();
          return registry.removed() == 0 && own.removed() == 1 ? 0 : 1;
        }) == 0);
  arena.reset();
  watched.ending.wait();
  CHECK(registry.removed() == 1);
}
