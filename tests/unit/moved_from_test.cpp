// What a handle answers after it was moved from: each call says Errc::moved_from and which object and call.

#include <chrono>
#include <coroutine>
#include <functional>
#include <memory_resource>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <thole/coroutine.hpp>
#include <thole/dlpack.hpp>
#include <thole/graph.hpp>
#include <thole/launch.hpp>
#include <thole/pmr.hpp>

#include "support/rig.hpp"

using namespace support;

namespace {

constexpr auto nothing = [](auto...) {};
constexpr std::chrono::hours hour{1};
const std::function<void()> no_release;

/// The error of a Result, thrown.
template <class T>
void raise(Result<T>&& result) {
  (void)detail::unwrap(std::move(result));
}

/// Each call throws moved_from, with a text that starts with the call's name.
void all_say_moved_from(const std::vector<std::pair<std::string, std::function<void()>>>& calls) {
  for (const auto& [name, call] : calls) {
    INFO(name);
    const auto text = errc_text(call, Errc::moved_from);
    CHECK(text.starts_with(name + ": "));
    CHECK(has(text, "has been moved from"));
  }
}

}  // namespace

TEST_CASE("every call of a device that was moved from, or with one, says moved_from") {
  Device device = stepped();
  const Device kept = std::move(device);
  const auto& gone = device;
  alignas(4096) static std::byte memory[4096];
  const gsl::span<std::byte> page(memory);
  const gsl::span<const std::byte> const_page(memory);
  all_say_moved_from({{"Device::backend", [&] { (void)gone.backend(); }},
                      {"Device::name", [&] { (void)gone.name(); }},
                      {"Device::ordinal", [&] { (void)gone.ordinal(); }},
                      {"Device::simulation", [&] { (void)gone.simulation(); }},
                      {"Device::lost", [&] { (void)gone.lost(); }},
                      {"Device::trim_pinned", [&] { (void)device.trim_pinned(); }},
                      {"Device::kept_pinned", [&] { (void)gone.kept_pinned(); }},
                      {"Device::keep_pinned", [&] { device.keep_pinned(0); }},
                      {"Device::take_error", [&] { (void)device.take_error(); }},
                      {"PinnedArena", [&] { (void)PinnedArena(gone); }},
                      {"PinnedArena::adopt", [&] { (void)PinnedArena::adopt(gone, page, no_release); }},
                      {"PinnedArena::adopt", [&] { (void)PinnedArena::adopt(gone, const_page, no_release); }},
                      {"PinnedArena::adopt_buffer", [&] { (void)PinnedArena::adopt_buffer(gone, page, no_release); }},
                      {"Graph::from_native", [&] { (void)Graph::from_native(gone, nullptr); }},
                      {"Stream", [&] { (void)Stream(gone); }},
                      {"from_native", [&] { (void)detail::unwrap(detail::stream_from_native(gone, nullptr)); }},
                      {"DeviceSpan::from_native", [&] { (void)DeviceSpan<int>::from_native(gone, nullptr, 1); }}});
  errc_text_of(PinnedArena::try_make(gone), Errc::moved_from);
  errc_text_of(Stream::try_make(gone), Errc::moved_from);
  errc_text_of(PinnedArena::try_adopt(gone, page, no_release), Errc::moved_from);
  errc_text_of(PinnedArena::try_adopt(gone, const_page, no_release), Errc::moved_from);
  errc_text_of(PinnedArena::try_adopt_buffer(gone, page, no_release), Errc::moved_from);
  CHECK_FALSE(gone == kept);
  device = kept;
  CHECK(device.name() == "simulated");
}

TEST_CASE("every call of an arena that was moved from, or with one, says moved_from") {
  Rig rig;
  const PinnedArena kept = std::move(rig.arena);
  const auto& gone = rig.arena;
  std::ostringstream picture;
  all_say_moved_from({{"PinnedArena::device", [&] { (void)gone.device(); }},
                      {"PinnedArena::capacity", [&] { (void)gone.capacity(); }},
                      {"PinnedArena::contains", [&] { (void)gone.contains(&rig); }},
                      {"PinnedArena::stats", [&] { (void)gone.stats(); }},
                      {"PinnedArena::regions", [&] { (void)gone.regions(); }},
                      {"PinnedArena::view", [&] { (void)gone.view<int>(); }},
                      {"PinnedArena::view", [&] { raise(gone.try_view<int>()); }},
                      {"PinnedArena::trim", [&] { (void)rig.arena.trim(); }},
                      {"PinnedArena::draw_svg", [&] { gone.draw_svg(picture); }},
                      {"PinnedHeap", [&] { (void)PinnedHeap(gone); }}});
  rig.arena = kept;
  CHECK(rig.arena.capacity() == MiB);
}

TEST_CASE("every call of a heap that was moved from, or with one, says moved_from") {
  Rig rig;
  const Stream stream(rig.device);
  const DeviceBuffer<int> memory(stream, 4);
  const PinnedHeap kept = std::move(rig.heap);
  const auto& gone = rig.heap;
  const std::vector<int> numbers{1, 2};
  int of_nobody = 0;
  const auto reads = Access::device_reads;
  const auto writes = Access::device_writes;
  all_say_moved_from({{"PinnedHeap::make_buffer", [&] { (void)gone.make_buffer<int>(1); }},
                      {"PinnedHeap::make_buffer", [&] { (void)gone.make_buffer<int>(0); }},
                      {"PinnedHeap::make_buffer", [&] { (void)gone.make_buffer<int>(1, 7); }},
                      {"PinnedHeap::make_buffer", [&] { (void)gone.make_buffer_from(numbers); }},
                      {"PinnedHeap::make_buffer_for", [&] { (void)gone.make_buffer_for<int>(1, hour); }},
                      {"PinnedHeap::make_buffer", [&] { (void)memory.async_to_host(stream, gone); }},
                      {"PinnedHeap::make_buffer_for", [&] { (void)memory.async_to_host_for(stream, gone, hour); }},
                      {"PinnedHeap::allocate", [&] { (void)gone.allocate(1); }},
                      {"PinnedHeap::allocate", [&] { raise(gone.try_allocate(1)); }},
                      {"PinnedHeap::deallocate", [&] { (void)gone.deallocate(&of_nobody, stream); }},
                      {"PinnedHeap::deallocate", [&] { raise(gone.try_deallocate(&of_nobody, stream)); }},
                      {"PinnedHeap::deallocate_after_all", [&] { (void)gone.deallocate_after_all(&of_nobody); }},
                      {"PinnedHeap::deallocate_after_all", [&] { raise(gone.try_deallocate_after_all(&of_nobody)); }},
                      {"PinnedHeap::record_use", [&] { (void)gone.record_use(&of_nobody, stream, reads); }},
                      {"PinnedHeap::record_use", [&] { (void)gone.record_use(&of_nobody, stream, writes); }},
                      {"PinnedHeap::record_use", [&] { raise(gone.try_record_use(&of_nobody, stream, reads)); }},
                      {"PinnedHeap::record_use", [&] { raise(gone.try_record_use(&of_nobody, stream, writes)); }},
                      {"PinnedHeap::use_on", [&] { gone.use_on(&of_nobody, stream, reads, nothing); }},
                      {"PinnedHeap::use_on", [&] { gone.use_on(&of_nobody, stream, writes, nothing); }},
                      {"PinnedHeap::try_wait_for", [&] { raise(gone.try_wait_for(&of_nobody, reads, hour)); }},
                      {"PinnedHeap::try_wait_for", [&] { raise(gone.try_wait_for(&of_nobody, writes, hour)); }},
                      {"PinnedHeap::collect", [&] { (void)gone.collect(); }},
                      {"PinnedHeap::drain", [&] { gone.drain(); }},
                      {"PinnedHeap::stats", [&] { (void)gone.stats(); }},
                      {"PinnedHeap::report", [&] { (void)gone.report(); }},
                      {"PinnedHeap::arena", [&] { (void)gone.arena(); }}});
  errc_text_of(gone.try_make_buffer<int>(1), Errc::moved_from);
  errc_text_of(gone.try_make_buffer<int>(1, 7), Errc::moved_from);
  errc_text_of(gone.try_make_buffer_from(numbers), Errc::moved_from);
  errc_text_of(gone.try_make_buffer_for<int>(1, std::chrono::hours(1)), Errc::moved_from);
  errc_text_of(gone.drain_for(std::chrono::hours(1)), Errc::moved_from);
  CHECK_FALSE(gone.deallocate(&of_nobody));
  CHECK(gone.deallocate(nullptr));
  CHECK_FALSE(gone.find(&of_nobody).has_value());
  CHECK_FALSE(gone == kept);
  PinnedMemoryResource resource(gone);
  CHECK_THROWS_AS((void)resource.allocate(1), std::bad_alloc);
  CHECK_THROWS_AS((void)PinnedAllocator<int>(gone).allocate(1), std::bad_alloc);
  rig.heap = kept;
  CHECK(rig.heap.make_buffer<int>(1).size() == 1);
}

TEST_CASE("every call of an event that was moved from, or with one, says moved_from") {
  const Rig rig;
  const Stream stream(rig.device);
  Event event = stream.record({.timing = true});
  const Event kept = std::move(event);
  const auto& gone = event;
  all_say_moved_from({{"Event::device", [&] { (void)gone.device(); }},
                      {"Event::ready", [&] { (void)gone.ready(); }},
                      {"Event::ready", [&] { raise(gone.try_ready()); }},
                      {"Event::synchronize", [&] { gone.synchronize(); }},
                      {"Event::wait_for", [&] { raise(gone.wait_for(hour)); }},
                      {"Event::on_ready", [&] { gone.on_ready(nothing); }},
                      {"Event::on_ready", [&] { raise(gone.try_on_ready(nothing)); }},
                      {"Event::elapsed_since", [&] { (void)gone.elapsed_since(kept); }},
                      {"Event::elapsed_since", [&] { (void)kept.elapsed_since(gone); }},
                      {"Event::elapsed_since", [&] { raise(gone.try_elapsed_since(kept)); }},
                      {"Event::elapsed_since", [&] { raise(kept.try_elapsed_since(gone)); }},
                      {"Event::on_ready",
                       [&] {
                         auto awaiter = operator co_await(std::move(event));
                         CHECK_FALSE(awaiter.await_ready());
                         awaiter.await_suspend(std::noop_coroutine());
                       }},
                      {"Stream::wait", [&] { stream.wait(gone); }},
                      {"Stream::wait", [&] { raise(stream.try_wait(gone)); }}});
}

TEST_CASE("every call of a stream that was moved from says moved_from") {
  Rig rig;
  Stream stream(rig.device);
  const Event event = stream.record();
  const Stream kept = std::move(stream);
  const StreamRef gone = stream;
  const auto sim = rig.sim();
  all_say_moved_from({{"StreamRef::device", [&] { (void)gone.device(); }},
                      {"Stream::synchronize", [&] { gone.synchronize(); }},
                      {"Stream::synchronize_for", [&] { raise(gone.synchronize_for(hour)); }},
                      {"Stream::record", [&] { (void)gone.record(); }},
                      {"Stream::record", [&] { raise(gone.try_record()); }},
                      {"Stream::wait", [&] { gone.wait(event); }},
                      {"Stream::wait", [&] { raise(gone.try_wait(event)); }},
                      {"Stream::launch_host_function", [&] { gone.launch_host_function([] {}); }},
                      {"Stream::launch_host_function", [&] { raise(gone.try_launch_host_function([] {})); }},
                      {"StreamRef::id", [&] { (void)gone.id(); }},
                      {"StreamRef::priority", [&] { (void)gone.priority(); }},
                      {"Stream::capturing", [&] { (void)gone.capturing(); }},
                      {"Stream::native", [&] { (void)gone.native(); }},
                      {"capture", [&] { (void)capture(gone, [] {}); }},
                      {"capture", [&] { raise(try_capture(gone, [] {})); }},
                      {"Simulation::hold", [&] { Simulation(sim).hold(gone); }},
                      {"Simulation::release", [&] { Simulation(sim).release(gone); }},
                      {"Simulation::step", [&] { (void)Simulation(sim).step(gone); }},
                      {"Simulation::pending", [&] { (void)sim.pending(gone); }},
                      {"Simulation::begin_capture", [&] { Simulation(sim).begin_capture(gone); }},
                      {"Simulation::end_capture", [&] { (void)Simulation(sim).end_capture(gone); }}});
  CHECK(gone == StreamRef(stream));
  CHECK_FALSE(gone == kept);
  stream = Stream(rig.device);
  stream.synchronize();
}

TEST_CASE("every call that works in a stream that was moved from says moved_from, also for 0 elements") {
  const Rig rig;
  Stream stream(rig.device);
  DeviceBuffer<int> memory(stream, 4);
  auto buffer = rig.heap.make_buffer<int>(4, 1);
  PinnedBuffer<int> empty;
  void* const raw = rig.heap.allocate(64);
  auto exec = capture(stream, [&] { buffer.async_to_device(stream, memory.span()); }).instantiate();
  const auto reads = Access::device_reads;
  const auto writes = Access::device_writes;
  UseList list;
  list.writes(buffer);
  const Stream kept = std::move(stream);
  const StreamRef gone = stream;
  all_say_moved_from({{"PinnedBuffer::async_to_device", [&] { (void)buffer.async_to_device(gone); }},
                      {"PinnedBuffer::async_to_device", [&] { raise(buffer.try_async_to_device(gone)); }},
                      {"PinnedBuffer::async_to_device", [&] { buffer.async_to_device(gone, memory.span()); }},
                      {"PinnedBuffer::async_from_device", [&] { buffer.async_from_device(gone, memory.span()); }},
                      {"PinnedBuffer::use_on", [&] { buffer.use_on(gone, reads, nothing); }},
                      {"PinnedBuffer::use_on", [&] { buffer.use_on(gone, writes, nothing); }},
                      {"PinnedBuffer::use_on", [&] { raise(buffer.try_use_on(gone, reads, nothing)); }},
                      {"PinnedBuffer::use_on", [&] { raise(buffer.try_use_on(gone, writes, nothing)); }},
                      {"PinnedBuffer::use_on", [&] { empty.use_on(gone, reads, nothing); }},
                      {"DeviceBuffer::async_to_host", [&] { (void)memory.async_to_host(gone, rig.heap); }},
                      {"DeviceBuffer", [&] { (void)DeviceBuffer<int>(gone, 1); }},
                      {"DeviceBuffer", [&] { raise(DeviceBuffer<int>::try_make(gone, 0)); }},
                      {"PinnedHeap::deallocate", [&] { (void)rig.heap.deallocate(raw, gone); }},
                      {"PinnedHeap::record_use", [&] { (void)rig.heap.record_use(raw, gone, reads); }},
                      {"PinnedBuffer::use_on", [&] { rig.heap.use_on(raw, gone, writes, nothing); }},
                      {"use_on", [&] { use_on(gone, thole::reads(buffer), nothing); }},
                      {"use_on", [&] { raise(try_use_on(gone, thole::reads(buffer), nothing)); }},
                      {"UseList::run_on", [&] { list.run_on(gone, nothing); }},
                      {"UseList::run_on", [&] { raise(UseList().try_run_on(gone, nothing)); }},
                      {"launch", [&] { launch(gone, thole::reads(buffer), nothing, nothing); }},
                      {"launch", [&] { raise(try_launch(gone, thole::reads(buffer), nothing, nothing)); }},
                      {"GraphExec::launch", [&] { exec.launch(gone); }},
                      {"use_on", [&] { launch(exec.native(), gone, thole::reads(buffer)); }},
                      {"UseList::run_on", [&] { launch(exec.native(), gone, list); }}});
  // A Result, and nothing thrown, also where nothing has to be done.
  CHECK_NOTHROW((void)empty.try_use_on(gone, reads, nothing));
  errc_text_of(empty.try_use_on(gone, writes, nothing), Errc::moved_from);
  CHECK(rig.heap.deallocate(raw));
}

TEST_CASE("every call of a buffer that was moved from, or with one, says moved_from") {
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<int> memory(stream, 4);
  auto buffer = rig.heap.make_buffer<int>(4, 1);
  auto kept = std::move(buffer);
  const auto& gone = buffer;
  const std::size_t sizes[] = {0};
  const auto reads = Access::device_reads;
  const auto writes = Access::device_writes;
  UseList list;
  const auto in_a_list = [&] {
    std::vector<PinnedBuffer<int>> parts;
    parts.push_back(std::move(buffer));
    return parts;
  };
  all_say_moved_from({{"PinnedBuffer::borrow", [&] { (void)gone.borrow(); }},
                      {"PinnedBuffer::borrow_mut", [&] { (void)buffer.borrow_mut(); }},
                      {"PinnedBuffer::try_borrow", [&] { raise(gone.try_borrow()); }},
                      {"PinnedBuffer::try_borrow_mut", [&] { raise(buffer.try_borrow_mut()); }},
                      {"PinnedBuffer::try_borrow_for", [&] { raise(gone.try_borrow_for(hour)); }},
                      {"PinnedBuffer::try_borrow_mut_for", [&] { raise(buffer.try_borrow_mut_for(hour)); }},
                      {"PinnedBuffer::wait", [&] { gone.wait(); }},
                      {"PinnedBuffer::wait_for", [&] { raise(gone.wait_for(hour)); }},
                      {"PinnedBuffer::async_to_device", [&] { (void)gone.async_to_device(stream); }},
                      {"PinnedBuffer::async_to_device", [&] { raise(gone.try_async_to_device(stream)); }},
                      {"PinnedBuffer::async_to_device", [&] { gone.async_to_device(stream, memory.span()); }},
                      {"PinnedBuffer::async_to_device", [&] { gone.async_to_device(stream, memory.span(), 0, 0); }},
                      {"PinnedBuffer::async_from_device", [&] { buffer.async_from_device(stream, memory.span()); }},
                      {"PinnedBuffer::use_on", [&] { gone.use_on(stream, reads, nothing); }},
                      {"PinnedBuffer::use_on", [&] { buffer.use_on(stream, writes, nothing); }},
                      {"PinnedBuffer::use_on", [&] { raise(gone.try_use_on(stream, reads, nothing)); }},
                      {"PinnedBuffer::use_on", [&] { raise(buffer.try_use_on(stream, writes, nothing)); }},
                      {"PinnedBuffer::split_at", [&] { (void)std::move(buffer).split_at(2); }},
                      {"PinnedBuffer::split_at", [&] { raise(std::move(buffer).try_split_at(0)); }},
                      {"PinnedBuffer::split",
                       [&] {
                         (void)std::move(buffer).split({2, 2});
                       }},
                      {"PinnedBuffer::split", [&] { (void)std::move(buffer).split(sizes); }},
                      {"PinnedBuffer::split", [&] { raise(std::move(buffer).try_split(sizes)); }},
                      {"join", [&] { (void)join(std::move(kept), std::move(buffer)); }},
                      {"join", [&] { (void)join(in_a_list()); }},
                      {"join", [&] { raise(try_join(in_a_list())); }},
                      {"use_on", [&] { use_on(stream, thole::reads(gone), nothing); }},
                      {"use_on", [&] { use_on(stream, thole::writes(buffer), nothing); }},
                      {"launch", [&] { launch(stream, thole::reads(gone), nothing, nothing); }},
                      {"UseList::reads", [&] { list.reads(gone); }},
                      {"UseList::writes", [&] { list.writes(buffer); }}});
  CHECK(gone.size() == 0);
  CHECK(gone.size_bytes() == 0);
  CHECK(gone.empty());
  CHECK_FALSE(gone.busy());
  CHECK(gone.unsynchronized_data() == nullptr);
  CHECK(list.empty());
  CHECK(kept.borrow()[3] == 1);
}

TEST_CASE("every call of device memory that was moved from, or with it, says moved_from") {
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<int> memory(stream, 4);
  const auto kept = std::move(memory);
  const auto& gone = memory;
  auto buffer = rig.heap.make_buffer<int>(4, 1);
  UseList list;
  all_say_moved_from(
      {{"DeviceBuffer::async_to_host", [&] { (void)gone.async_to_host(stream, rig.heap); }},
       {"DeviceBuffer::async_to_host", [&] { raise(gone.try_async_to_host(stream, rig.heap)); }},
       {"DeviceBuffer::async_to_host", [&] { (void)gone.async_to_host_for(stream, rig.heap, hour); }},
       {"DeviceBuffer::async_to_host", [&] { raise(gone.try_async_to_host_for(stream, rig.heap, hour)); }},
       {"use_on", [&] { use_on(stream, thole::reads(gone), nothing); }},
       {"use_on", [&] { use_on(stream, thole::writes(memory), nothing); }},
       {"UseList::reads", [&] { list.reads(gone); }},
       {"UseList::writes", [&] { list.writes(memory); }},
       {"DeviceBuffer::split_at", [&] { (void)std::move(memory).split_at(2); }},
       {"DeviceBuffer::split_at", [&] { raise(std::move(memory).try_split_at(0)); }},
       {"DeviceBuffer::split",
        [&] {
          (void)std::move(memory).split({2, 2});
        }},
       {"join", [&] { (void)join(std::move(memory)); }}});
  CHECK(gone.size() == 0);
  CHECK(gone.size_bytes() == 0);
  CHECK(gone.empty());
  // No span of it names memory: a copy of some elements does not fit, and of none there is nothing to do.
  CHECK(gone.span().empty());
  CHECK(gone.span().native() == nullptr);
  errc_text_of(buffer.try_async_to_device(stream, memory.span()), Errc::too_small);
  CHECK(buffer.try_async_from_device(stream, gone.span()).has_value());
}

TEST_CASE("every call of a graph that was moved from says moved_from") {
  const Rig rig;
  const Stream stream(rig.device);
  Graph graph = capture(stream, [] {});
  GraphExec exec = graph.instantiate();
  const Graph kept = std::move(graph);
  const GraphExec kept_exec = std::move(exec);
  all_say_moved_from({{"Graph::device", [&] { (void)graph.device(); }},
                      {"Graph::instantiate", [&] { (void)graph.instantiate(); }},
                      {"Graph::instantiate", [&] { raise(graph.try_instantiate()); }},
                      {"Graph::native", [&] { (void)graph.native(); }},
                      {"GraphExec::device", [&] { (void)exec.device(); }},
                      {"GraphExec::launch", [&] { exec.launch(stream); }},
                      {"GraphExec::launch", [&] { raise(exec.try_launch(stream)); }},
                      {"GraphExec::native", [&] { (void)exec.native(); }}});
  graph = capture(stream, [] {});
  exec = graph.instantiate();
  exec.launch(stream);
}

TEST_CASE("borrows, lists of uses and a simulation's controls are valid when moved from") {
  const Rig rig;
  const Stream stream(rig.device);
  auto buffer = rig.heap.make_buffer<int>(4, 1);
  UseList list;
  list.reads(buffer);
  const UseList kept = std::move(list);
  CHECK(list.empty());
  CHECK(list.size() == 0);
  bool ran = false;
  list.run_on(stream, [&](NativeStream) { ran = true; });
  CHECK(ran);
  list.clear();
  list.reads(buffer);
  CHECK(list.size() == 1);

  auto writes = buffer.borrow_mut();
  auto kept_borrow = std::move(writes);
  CHECK(writes.empty());
  CHECK(writes.size() == 0);
  CHECK(writes.data() == nullptr);
  CHECK(writes.begin() == writes.end());
  CHECK(writes.span().empty());
  CHECK(writes.as_bytes().empty());
  CHECK(writes.as_writable_bytes().empty());
  errc_text([&] { (void)writes[0]; }, Errc::invalid_argument);
  errc_text([&] { (void)writes.at(0); }, Errc::invalid_argument);
  writes.drop();
  CHECK(std::move(writes).share().empty());
  CHECK(to_dlpack(std::move(writes))->dl_tensor.shape[0] == 0);
  writes.swap(kept_borrow);
  CHECK(writes.size() == 4);
  const auto reads = std::move(writes).share();
  CHECK(reads.size() == 4);

  Simulation sim = rig.sim();
  const Simulation other = std::move(sim);
  CHECK(sim.pending() == other.pending());
  sim.run_all();
}
