#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include <thole/thole.hpp>

#include "../support/child.hpp"
#include "../support/sanitized.hpp"
#include "worker.hpp"

namespace model {
namespace {

using namespace thole;

/// What a kernel's launch would be: it looks at memory when the stream gets there.
struct Look {
  Shared& shared;
  const Word* data;
  std::size_t count;
  std::uint64_t pattern;
  std::size_t first;
  static void run(void* argument) {
    const std::unique_ptr<Look> self(static_cast<Look*>(argument));
    if (!holds(self->data, self->count, self->pattern, self->first)) self->shared.fail("a use saw a wrong payload");
  }
};

/// Or writes it.
struct Write {
  Word* data;
  std::size_t count;
  std::uint64_t pattern;
  static void run(void* argument) {
    const std::unique_ptr<Write> self(static_cast<Write*>(argument));
    write(self->data, self->count, self->pattern);
  }
};

}  // namespace

void Worker::look_later(NativeStream native, const Word* data, std::size_t count, std::uint64_t pattern,
                        std::size_t first) {
  auto look = std::make_unique<Look>(Look{shared_, data, count, pattern, first});
  auto& backend = *thole::detail::HandleAccess::core(shared_.device)->backend;
  if (backend.launch_host_function(native, &Look::run, look.get()).ok()) look.release();
}

void Worker::write_later(NativeStream native, Word* data, std::size_t count, std::uint64_t pattern) {
  auto work = std::make_unique<Write>(Write{data, count, pattern});
  auto& backend = *thole::detail::HandleAccess::core(shared_.device)->backend;
  if (backend.launch_host_function(native, &Write::run, work.get()).ok()) work.release();
}

void Worker::check(const Parcel& parcel) {
  if (parcel.borrow && !holds(parcel.borrow->data(), parcel.borrow->size(), parcel.pattern, parcel.first))
    broken("a borrow from another thread shows a wrong payload");
  if (!parcel.buffer) return;
  const auto borrow = parcel.buffer->borrow();
  if (!holds(borrow.data(), borrow.size(), parcel.pattern, parcel.first)) broken("a buffer shows a wrong payload");
}

Parcel Worker::make() { return make(1 + below(below(16) == 0 ? 20000 : 600)); }

Parcel Worker::make(std::size_t count, const PinnedHeap& from) {
  Parcel parcel{own(below(4) == 0 ? unwrap(from.try_make_buffer_for<Word>(count, std::chrono::milliseconds(10)))
                                  : from.make_buffer<Word>(count)),
                {}};
  rewrite(parcel);
  return parcel;
}

void Worker::rewrite(Parcel& parcel) {
  const auto borrow = parcel.buffer->borrow_mut();
  parcel.pattern = ++patterns_;
  parcel.first = 0;
  write(borrow.data(), borrow.size(), parcel.pattern);
}

void Worker::keep(Parcel parcel) {
  if (below(3) == 0) {
    if (below(3) == 0) {
      // The borrow goes to one thread, the buffer is dropped here.
      Parcel borrowed{{}, std::make_unique<thole::Borrow<Word>>(parcel.buffer->borrow()), parcel.pattern, parcel.first};
      parcel.buffer.reset();
      return shared_.send(std::move(borrowed));
    }
    return shared_.send(std::move(parcel));
  }
  kept_.push_back(std::move(parcel));
  if (kept_.size() > 12) drop();
}

void Worker::drop() {
  if (kept_.empty()) return;
  std::swap(kept_[below(kept_.size())], kept_.back());
  if (below(2) == 0) check(kept_.back());
  kept_.pop_back();
}

void Worker::round_trip() {
  Parcel parcel = make();
  const std::uint64_t pattern = parcel.pattern;
  const StreamRef there = stream();
  auto memory = parcel.buffer->async_to_device(there);
  if (below(3) == 0)
    there.launch_host_function([&shared = shared_, data = shared_.device.simulation().view_of(memory.span().native()),
                                count = memory.size(), pattern, alive = &functions_] {
      if (!holds(data, count, pattern)) shared.fail("a host function behind a copy saw a wrong payload");
      alive->fetch_add(1, std::memory_order_relaxed);
    });
  if (below(2) == 0) {
    parcel.buffer.reset();  // its copy may still be in flight
  } else if (below(2) == 0) {
    rewrite(parcel);  // waits for the copy
    keep(std::move(parcel));
  }
  // The stream of the allocation, so that the host function has run when the memory is freed.
  Parcel back{own(memory.async_to_host(below(2) == 0 ? there : stream(), heap())), {}, pattern};
  keep(std::move(back));
}

void Worker::receive() {
  auto parcel = shared_.receive();
  if (!parcel) return;
  check(*parcel);
  if (!parcel->buffer) return;
  if (below(2) == 0) {
    (void)parcel->buffer->async_to_device(stream());
    parcel->buffer.reset();
  } else {
    kept_.push_back(std::move(*parcel));
  }
}

/// Const calls on a buffer that others use, too; whoever lets go of it last drops it.
void Worker::share() {
  Common common;
  {
    const std::scoped_lock lock(shared_.mutex);
    common = shared_.common[below(shared_.common.size())];
  }
  if (common.buffer == nullptr || below(16) == 0) {
    Parcel parcel = make();
    common = {std::move(parcel.buffer), parcel.pattern};
    const std::scoped_lock lock(shared_.mutex);
    std::swap(shared_.common[below(shared_.common.size())], common);
    return;
  }
  const Buffer& buffer = *common.buffer;
  auto borrow = buffer.try_borrow();
  if (!borrow || !holds(borrow->data(), borrow->size(), common.pattern)) broken("a shared buffer is not as it was");
  const auto there = buffer.async_to_device(stream());
  if (below(4) == 0)
    return shared_.send({{}, std::make_unique<thole::Borrow<Word>>(std::move(*borrow)), common.pattern});
  keep({own(there.async_to_host(stream(), heap())), {}, common.pattern});
}

/// Work behind thole's back, which looks at what it uses long after its function has dropped the buffer.
void Worker::use() {
  Parcel parcel = make();
  const Word* const data = parcel.buffer->unsynchronized_data();
  const std::size_t count = parcel.buffer->size();
  parcel.buffer->use_on(stream(), Access::device_reads, [&](const Word*, NativeStream native) {
    if (const auto inside = parcel.buffer->try_borrow(); !inside) broken("a function that reads cannot borrow");
    if (parcel.buffer->try_borrow_mut()) broken("a function that reads can write");
    if (below(2) == 0) (void)parcel.buffer->async_to_device(stream());
    const bool early = below(2) == 0;
    if (early) parcel.buffer.reset();
    look_later(native, data, count, parcel.pattern);
  });
  if (parcel.buffer) keep(std::move(parcel));
}

/// Memory by its address, given back while work reads it, in one of the ways there are.
void Worker::raw() {
  const PinnedHeap& from = heap();
  const std::size_t count = 1 + below(600);
  auto* const data = static_cast<Word*>(from.allocate(count * sizeof(Word)));
  write(data, count, ++patterns_);
  const auto enqueue = [&](NativeStream native) { look_later(native, data, count, patterns_); };
  const StreamRef there = stream();
  const bool recorded = below(2) == 0;
  if (recorded)
    enqueue(there.native());
  else
    from.use_on(data, there, Access::device_reads, enqueue);
  if (recorded && !from.record_use(data + below(count), there, Access::device_reads)) broken("a use is not recorded");
  if (const auto found = from.find(data + below(count)); !found || found->data != data) broken("memory is not found");
  bool gone = false;
  switch (below(4)) {
    case 0:
      gone = from.deallocate(data);
      break;
    case 1:
      gone = from.deallocate(data, stream());
      break;
    case 2:
      gone = shared_.captures ? from.deallocate(data) : from.deallocate_after_all(data);
      break;
    default:
      unwrap(from.try_wait_for(data, Access::device_writes, thole::forever));
      write(data, count, ++patterns_);
      if (!holds(data, count, patterns_)) broken("raw memory is written by another");
      gone = from.deallocate(data);
  }
  if (!gone) broken("raw memory is not deallocated");
}

/// The handle of another thread's default stream means this thread's own one: nobody gets that by mistake.
void Worker::use_anothers_default_stream() {
  std::optional<StreamRef> view;
  {
    const std::scoped_lock lock(shared_.mutex);
    view = shared_.views[below(shared_.views.size())];
  }
  const bool mine = *view == threads_own_;
  Parcel parcel = make();
  auto memory = parcel.buffer->try_async_to_device(*view);
  const auto ended = view->synchronize_for(thole::forever);
  const auto right = [&](const auto& result) {
    return mine ? result.has_value() : !result && result.error().errc() == Errc::invalid_argument;
  };
  if (!right(memory) || !right(ended)) broken("a default stream is its own thread's, and no other's");
  keep(std::move(parcel));
}

/// Device memory that other streams fill and read than it was made on, and that goes at once.
void Worker::through_a_span() {
  Parcel parcel = make();
  const std::size_t count = parcel.buffer->size();
  Parcel back{own(heap().make_buffer<Word>(count)), {}, parcel.pattern};
  DeviceSpan<Word> dangling;
  {
    DeviceBuffer<Word> memory(stream(), count);
    dangling = memory.span();
    parcel.buffer->async_to_device(stream(), memory.span());
    back.buffer->async_from_device(stream(), memory.span());
  }
  if (parcel.buffer->try_async_to_device(stream(), dangling)) broken("a span of nothing was taken");
  keep(std::move(back));
}

/// The heap's last buffer goes on another thread, which may be in the middle of opening one.
void Worker::heap_ends() {
  const PinnedHeap own_heap(shared_.arena);
  Parcel parcel{own(own_heap.make_buffer<Word>(1 + below(256))), {}};
  rewrite(parcel);
  (void)parcel.buffer->async_to_device(stream());
  shared_.send(std::move(parcel));
}

void Worker::fork_child() {
  if (THOLE_TEST_SANITIZED) return;
  const int ended = support::in_child([&] {
    kept_.clear();
    streams_.clear();
    return shared_.heap.try_make_buffer<Word>(1) ? 1 : 0;
  });
  if (ended != 0) broken("a forked child did not end well");
}

void Worker::graph() {
  if (!shared_.captures) return;
  Parcel parcel = make();
  DeviceBuffer<Word> memory(own_stream(), parcel.buffer->size());
  for (const Stream& each : streams_) each.synchronize();
  constexpr SimulatedCaptureMode modes[] = {SimulatedCaptureMode::global, SimulatedCaptureMode::thread_local_,
                                            SimulatedCaptureMode::relaxed};
  auto simulation = shared_.device.simulation();
  auto& there = own_stream();
  simulation.begin_capture(there, modes[below(3)]);
  parcel.buffer->async_to_device(there, memory.span());
  // The copy back perhaps in a branch, behind the copy there, as thole sees to.
  auto& side = below(2) == 0 ? there : streams_[&there == streams_.data() ? 1 : 0];
  if (&side != &there) side.wait(there.record());
  auto back = memory.async_to_host(side, heap());
  if (&side != &there) there.wait(side.record());
  if (below(2) == 0) (void)shared_.heap.collect();
  if (below(2) == 0) drop();
  auto graph = std::make_optional(simulation.end_capture(there));
  auto executable = graph->instantiate();
  if (below(2) == 0) graph.reset();
  const std::size_t launches = 1 + below(3);
  for (std::size_t i = 0; i != launches; ++i) executable.launch(there);
  if (below(2) == 0) parcel.buffer.reset();
  there.synchronize();
  keep({own(std::move(back)), {}, parcel.pattern});
}

}  // namespace model
