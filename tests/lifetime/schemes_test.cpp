// Schemes that programs have, written with thole and once more by hand with bare streams and events, on a device that
// counts: a copy or a kernel is a step of its stream, events and waits are none. What thole orders by itself takes no
// more steps, and no more waits, than the best that a hand writes. (A copy on the device stands for a kernel.) A GPU
// counts neither.

#include <memory>
#include <tuple>
#include <vector>

#include <thole/graph.hpp>

#include "../support/rig.hpp"

using namespace support;
using namespace std::chrono_literals;

namespace {

using detail::CopyKind;
using Bytes = PinnedBuffer<std::byte>;
using Memory = DeviceBuffer<std::byte>;

constexpr std::size_t bytes = 4 * KiB;

struct Counting : Rig {
  Counting() : Rig(Device::simulated({.latency = 1ns, .stepped = true})) {}
  /// Everything happens. The steps until then: the longest way through all streams.
  std::size_t steps() const {
    sim().run_all();
    return static_cast<std::size_t>(sim().now().count());
  }
  std::size_t waits() const { return calls(SimulatedCall::wait_event); }
};

/// The bare calls.
class Hand {
 public:
  using Stream = detail::StreamHandle;
  using Event = detail::EventHandle;
  explicit Hand(const Counting& rig) : rig_(rig), backend_(rig.backend()) {}
  ~Hand() {
    for (Event event : events_) CHECK(backend_.destroy_event(event).ok());
    for (Stream stream : streams_) CHECK(backend_.destroy_stream(stream).ok());
    for (void* data : pinned_) rig_.heap.deallocate(data);
  }
  Hand(const Hand&) = delete;
  Hand& operator=(const Hand&) = delete;

  Stream stream() {
    REQUIRE(backend_.create_stream(&streams_.emplace_back()).ok());
    return streams_.back();
  }
  std::byte* pinned(std::size_t size, int value = 0) {
    pinned_.push_back(rig_.heap.allocate(size));
    std::memset(pinned_.back(), value, size);
    return static_cast<std::byte*>(pinned_.back());
  }
  std::byte* device(std::size_t size, Stream on) {
    void* data = nullptr;
    REQUIRE(backend_.allocate_device(size, on, &data).ok());
    return static_cast<std::byte*>(data);
  }
  void free(void* data, Stream on) { REQUIRE(backend_.free_device(data, on).ok()); }
  void copy(void* to, const void* from, std::size_t size, CopyKind kind, Stream on) {
    REQUIRE(backend_.copy(to, from, size, kind, on).ok());
  }
  void kernel(void* to, const void* from, std::size_t size, Stream on) {
    copy(to, from, size, CopyKind::device_to_device, on);
  }
  Event record(Stream on) {
    REQUIRE(backend_.create_event(&events_.emplace_back()).ok());
    REQUIRE(backend_.record_event(events_.back(), on).ok());
    return events_.back();
  }
  void wait(Stream on, Event event) { REQUIRE(backend_.wait_event(on, event).ok()); }
  detail::DeviceBackend& backend() const { return backend_; }

 private:
  const Counting& rig_;
  detail::DeviceBackend& backend_;
  std::vector<Stream> streams_;
  std::vector<Event> events_;
  std::vector<void*> pinned_;
};

/// A kernel that reads one thing and writes another, as the function of use_on.
auto kernel(const Counting& rig, std::size_t size = bytes) {
  return [&rig, size](const std::byte* from, std::byte* to, NativeStream native) {
    REQUIRE(rig.backend().copy(to, from, size, CopyKind::device_to_device, native).ok());
  };
}

}  // namespace

// ---- Overlap of copies and kernels over n streams: each slice goes in, through a kernel, and out.

namespace {

constexpr std::size_t slices = 4, rounds_of_slices = 5;

std::size_t slices_by_hand() {
  const Counting rig;
  Hand hand(rig);
  std::byte* const in = hand.pinned(slices * bytes, 7);
  std::byte* const out = hand.pinned(slices * bytes);
  std::vector<Hand::Stream> streams;
  std::vector<std::byte*> memory, result;
  for (std::size_t i = 0; i != slices; ++i) {
    streams.push_back(hand.stream());
    memory.push_back(hand.device(bytes, streams[i]));
    result.push_back(hand.device(bytes, streams[i]));
  }
  for (std::size_t round = 0; round != rounds_of_slices; ++round)
    for (std::size_t i = 0; i != slices; ++i) {
      hand.copy(memory[i], in + i * bytes, bytes, CopyKind::host_to_device, streams[i]);
      hand.kernel(result[i], memory[i], bytes, streams[i]);
      hand.copy(out + i * bytes, result[i], bytes, CopyKind::device_to_host, streams[i]);
    }
  for (std::size_t i = 0; i != slices; ++i) hand.free(memory[i], streams[i]), hand.free(result[i], streams[i]);
  const auto steps = rig.steps();
  CHECK(all_are(out, slices * bytes, 7));
  CHECK(rig.waits() == 0);
  return steps;
}

}  // namespace

TEST_CASE("copies and kernels over several streams overlap as by hand: a slice's own work, and no wait") {
  const Counting rig;
  std::size_t steps = 0;
  {
    std::vector<Stream> streams;
    std::vector<Memory> memory, result;
    auto in = rig.heap.make_buffer<std::byte>(slices * bytes, std::byte{7}).split({bytes, bytes, bytes, bytes});
    auto out = rig.heap.make_buffer<std::byte>(slices * bytes).split({bytes, bytes, bytes, bytes});
    for (std::size_t i = 0; i != slices; ++i) {
      streams.emplace_back(rig.device);
      memory.emplace_back(streams[i], bytes);
      result.emplace_back(streams[i], bytes);
    }
    for (std::size_t round = 0; round != rounds_of_slices; ++round)
      for (std::size_t i = 0; i != slices; ++i) {
        in[i].async_to_device(streams[i], memory[i].span());
        use_on(streams[i], reads(memory[i]), writes(result[i]), kernel(rig));
        out[i].async_from_device(streams[i], result[i].span());
      }
    memory.clear();
    result.clear();
    steps = rig.steps();
    CHECK(all_are(join(std::move(out)), 7));
  }
  CHECK(rig.waits() == 0);
  CHECK(steps == 2 + 3 * rounds_of_slices + 2);  // two allocations, the rounds, two frees
  CHECK(steps == slices_by_hand());
}

// ---- A graph that forks and joins: in, three branches of a kernel and a copy out, a last kernel and out.

namespace {

constexpr std::size_t branches = 3, launches = 4;

std::size_t graph_by_hand() {
  const Counting rig;
  Hand hand(rig);
  const Hand::Stream stream = hand.stream();
  std::byte* const in = hand.pinned(bytes, 5);
  std::byte* const out = hand.pinned((branches + 1) * bytes);
  std::byte* const memory = hand.device((branches + 2) * bytes, stream);
  REQUIRE(hand.backend().begin_capture(stream, detail::CaptureMode::thread_local_).ok());
  hand.copy(memory, in, bytes, CopyKind::host_to_device, stream);
  const Hand::Event fork = hand.record(stream);
  for (std::size_t i = 1; i <= branches; ++i) {
    const Hand::Stream branch = hand.stream();
    hand.wait(branch, fork);
    hand.kernel(memory + i * bytes, memory, bytes, branch);
    hand.copy(out + i * bytes, memory + i * bytes, bytes, CopyKind::device_to_host, branch);
    hand.wait(stream, hand.record(branch));
  }
  hand.kernel(memory + (branches + 1) * bytes, memory + branches * bytes, bytes, stream);
  hand.copy(out, memory + (branches + 1) * bytes, bytes, CopyKind::device_to_host, stream);
  detail::GraphHandle graph = nullptr;
  detail::GraphExecHandle exec = nullptr;
  REQUIRE(hand.backend().end_capture(stream, &graph).ok());
  REQUIRE(hand.backend().instantiate_graph(graph, &exec).ok());
  for (std::size_t i = 0; i != launches; ++i) REQUIRE(hand.backend().launch_graph(exec, stream).ok());
  hand.free(memory, stream);
  const auto steps = rig.steps();
  CHECK(all_are(out, (branches + 1) * bytes, 5));
  REQUIRE(hand.backend().destroy_graph_exec(exec).ok());
  REQUIRE(hand.backend().destroy_graph(graph).ok());
  return steps;
}

}  // namespace

TEST_CASE("a graph that forks and joins has the nodes that a hand gives it, and a launch no more") {
  for (const auto completion : {whole_launch, each_write}) {
    const Counting rig;
    const Stream stream(rig.device);
    const auto in = rig.heap.make_buffer<std::byte>(bytes, std::byte{5});
    std::vector<Bytes> out;
    for (std::size_t i = 0; i <= branches; ++i) out.push_back(rig.heap.make_buffer<std::byte>(bytes));
    std::size_t steps = 0;
    {
      auto memory = Memory(stream, (branches + 2) * bytes).split(std::vector<std::size_t>(branches + 2, bytes));
      const auto part = [&](std::size_t i) { return memory[i].span(); };
      std::vector<Stream> forked;
      auto exec = capture(stream,
                          [&] {
                            in.async_to_device(stream, part(0));
                            const Event fork = stream.record();
                            for (std::size_t i = 1; i <= branches; ++i) {
                              const Stream& branch = forked.emplace_back(rig.device);
                              branch.wait(fork);
                              use_on(branch, reads(part(0)), writes(part(i)), kernel(rig));
                              out[i].async_from_device(branch, part(i));
                              stream.wait(branch.record());
                            }
                            use_on(stream, reads(part(branches)), writes(part(branches + 1)), kernel(rig));
                            out[0].async_from_device(stream, part(branches + 1));
                          },
                          {.completion = completion})
                      .instantiate();
      // Each branch waits for the fork, and is waited for; the rest is for what is read, and not for other branches.
      CHECK(rig.waits() == 2 * branches + branches + 1);
      for (std::size_t i = 0; i != launches; ++i) exec.launch(stream);
      steps = rig.steps();
      for (const auto& buffer : out) CHECK(all_are(buffer, 5));
    }
    CHECK(rig.calls(SimulatedCall::copy) == 3 + 2 * branches);  // the nodes; launches call none
    CHECK(steps + 1 == graph_by_hand());                        // which frees its memory in the stream
  }
}

// ---- A paged search: pages come in on one stream, are searched on others, all in one piece of work each, and dropped.

namespace {

constexpr std::size_t pages = 8, batches = 5, searchers = 2;

std::size_t search_by_hand() {
  const Counting rig;
  Hand hand(rig);
  const Hand::Stream upload = hand.stream(), freeing = hand.stream();
  const Hand::Stream search[searchers] = {hand.stream(), hand.stream()};
  std::byte* found[searchers];
  for (std::size_t s = 0; s != searchers; ++s) found[s] = hand.device(bytes, search[s]);
  std::byte* const in = hand.pinned(pages * bytes, 1);
  for (std::size_t batch = 0; batch != batches; ++batch) {
    std::vector<std::byte*> memory;
    for (std::size_t i = 0; i != pages; ++i) {
      memory.push_back(hand.device(bytes, upload));
      hand.copy(memory[i], in + i * bytes, bytes, CopyKind::host_to_device, upload);
    }
    const Hand::Event uploaded = hand.record(upload);
    for (std::size_t s = 0; s != searchers; ++s) {
      hand.wait(search[s], uploaded);
      for (std::size_t i = 0; i != pages; ++i) hand.kernel(found[s], memory[i], bytes, search[s]);
      hand.wait(freeing, hand.record(search[s]));  // a stream of its own: the upload stream does not wait
    }
    for (std::byte* page : memory) hand.free(page, freeing);
  }
  const auto steps = rig.steps();
  for (std::size_t s = 0; s != searchers; ++s) hand.free(found[s], search[s]);
  (void)rig.steps();
  return steps;
}

}  // namespace

TEST_CASE("a paged search frees its pages behind their uses, and no stream waits for that") {
  const Counting rig;
  const Stream upload(rig.device);
  std::vector<Stream> search;
  std::vector<Memory> found;
  for (std::size_t s = 0; s != searchers; ++s) found.emplace_back(search.emplace_back(rig.device), bytes);
  const auto in = rig.heap.make_buffer<std::byte>(pages * bytes, std::byte{1});
  for (std::size_t batch = 0; batch != batches; ++batch) {
    std::vector<Memory> memory;
    for (std::size_t i = 0; i != pages; ++i)
      in.async_to_device(upload, memory.emplace_back(upload, bytes).span(), i * bytes, bytes);
    for (std::size_t s = 0; s != searchers; ++s) {
      UseList uses;
      for (const Memory& page : memory) uses.reads(page);
      uses.writes(found[s]);
      uses.run_on(search[s], [&](NativeStream native) {
        for (const Memory& page : memory) kernel(rig)(page.span().native(), found[s].span().native(), native);
      });
    }
  }
  const auto steps = rig.steps();
  CHECK(rig.waits() == batches * searchers);  // each search for the upload, and nothing for a free
  const auto by_hand = search_by_hand();
  CHECK(steps == batches * pages * 2 + pages);  // the uploads, and the last search; the others beside them
  CHECK(steps + pages == by_hand);              // which frees the last pages in the end
  for (std::size_t s = 0; s != searchers; ++s) CHECK(device_holds(rig, search[s], found[s], 1));
  found.clear();
  until([&] {
    (void)rig.heap.collect();
    rig.sim().run_all();
    return rig.sim().device_bytes() == 0;
  });
  CHECK(rig.steps() <= by_hand + 2);  // the frees, in a stream of their own; and the copies that looked at the result
}

// ---- A halo exchange: ranks in a ring, each with a core and an edge. A step computes the edge, sends its two faces
// through pinned memory to the neighbours, and computes the core beside that.

namespace {

constexpr std::size_t ranks = 4, iterations = 6;

std::size_t left_of(std::size_t rank) { return (rank + ranks - 1) % ranks; }
std::size_t right_of(std::size_t rank) { return (rank + 1) % ranks; }

struct Halo {
  std::size_t steps, waits;
};

Halo halo_by_hand() {
  const Counting rig;
  Hand hand(rig);
  struct Rank {
    Hand::Stream faces, inner;
    std::byte *edge, *ghost, *core, *to_left, *to_right;
    Hand::Event sent = nullptr, received = nullptr, computed = nullptr;
  };
  std::vector<Rank> all;
  for (std::size_t i = 0; i != ranks; ++i) {
    const Hand::Stream faces = hand.stream(), inner = hand.stream();
    all.push_back({faces, inner, hand.device(2 * bytes, faces), hand.device(2 * bytes, faces),
                   hand.device(2 * bytes, inner), hand.pinned(bytes), hand.pinned(bytes)});
    all.back().computed = hand.record(inner);
  }
  (void)rig.steps();
  const auto before = static_cast<std::size_t>(rig.sim().now().count());
  for (std::size_t iteration = 0; iteration != iterations; ++iteration) {
    for (Rank& rank : all) {
      hand.wait(rank.faces, rank.computed);
      hand.kernel(rank.edge, rank.ghost, 2 * bytes, rank.faces);
      hand.wait(rank.inner, hand.record(rank.faces));
      hand.kernel(rank.core, rank.edge, 2 * bytes, rank.inner);
      rank.computed = hand.record(rank.inner);
    }
    for (std::size_t i = 0; i != ranks; ++i) {
      Rank& rank = all[i];
      if (iteration != 0) hand.wait(rank.faces, all[left_of(i)].received);
      hand.copy(rank.to_left, rank.edge, bytes, CopyKind::device_to_host, rank.faces);
      if (iteration != 0) hand.wait(rank.faces, all[right_of(i)].received);
      hand.copy(rank.to_right, rank.edge + bytes, bytes, CopyKind::device_to_host, rank.faces);
      rank.sent = hand.record(rank.faces);
    }
    for (std::size_t i = 0; i != ranks; ++i) {
      Rank& rank = all[i];
      hand.wait(rank.faces, all[left_of(i)].sent);
      hand.copy(rank.ghost, all[left_of(i)].to_right, bytes, CopyKind::host_to_device, rank.faces);
      hand.wait(rank.faces, all[right_of(i)].sent);
      hand.copy(rank.ghost + bytes, all[right_of(i)].to_left, bytes, CopyKind::host_to_device, rank.faces);
    }
    for (Rank& rank : all) rank.received = hand.record(rank.faces);
  }
  const Halo halo{rig.steps() - before, rig.waits()};
  for (const Rank& rank : all) {
    hand.free(rank.edge, rank.faces);
    hand.free(rank.ghost, rank.faces);
    hand.free(rank.core, rank.inner);
  }
  (void)rig.steps();
  return halo;
}

}  // namespace

TEST_CASE("a halo exchange over parts of one buffer takes the steps, and at most the waits, that a hand needs") {
  const Counting rig;
  struct Rank {
    Rank(const Rig& on, Bytes& all) : faces(on.device), inner(on.device) {
      std::tie(to_left, all) = std::move(all).split_at(bytes);
      if (all.size() == bytes)
        to_right = std::move(all);
      else
        std::tie(to_right, all) = std::move(all).split_at(bytes);
    }
    Stream faces, inner;
    Memory edge{faces, 2 * bytes}, ghost{faces, 2 * bytes}, core{inner, 2 * bytes};
    Bytes to_left, to_right;
  };
  std::vector<std::unique_ptr<Rank>> all;
  auto buffer = rig.heap.make_buffer<std::byte>(2 * ranks * bytes);
  for (std::size_t i = 0; i != ranks; ++i) all.push_back(std::make_unique<Rank>(rig, buffer));
  for (auto& rank : all)  // what the first edge is made of
    rig.heap.make_buffer<std::byte>(2 * bytes, std::byte{9}).async_to_device(rank->faces, rank->ghost.span());
  const auto before = rig.steps();
  const auto first_waits = rig.waits();
  for (std::size_t iteration = 0; iteration != iterations; ++iteration) {
    for (auto& rank : all) {
      use_on(rank->faces, reads(rank->ghost), writes(rank->edge), reads(rank->core),
             [&](const std::byte* ghost, std::byte* edge, const std::byte*, NativeStream native) {
               kernel(rig, 2 * bytes)(ghost, edge, native);
             });
      use_on(rank->inner, reads(rank->edge), writes(rank->core), kernel(rig, 2 * bytes));
    }
    for (auto& rank : all) {
      rank->to_left.async_from_device(rank->faces, rank->edge.span().subspan(0, bytes));
      rank->to_right.async_from_device(rank->faces, rank->edge.span().subspan(bytes, bytes));
    }
    for (std::size_t i = 0; i != ranks; ++i) {
      Rank& rank = *all[i];
      all[left_of(i)]->to_right.async_to_device(rank.faces, rank.ghost.span().subspan(0, bytes));
      all[right_of(i)]->to_left.async_to_device(rank.faces, rank.ghost.span().subspan(bytes, bytes));
    }
  }
  const auto steps = rig.steps() - before;
  const Halo by_hand = halo_by_hand();
  CHECK(steps == 5 * iterations);  // the edge's kernel, two copies out, two in; the core's is beside them
  CHECK(steps == by_hand.steps);
  CHECK(rig.waits() - first_waits <= by_hand.waits);
  for (auto& rank : all) {
    CHECK(all_are(rank->to_left, 9));
    CHECK(device_holds(rig, rank->inner, rank->core, 9));
  }
}
