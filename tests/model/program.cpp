#include "program.hpp"

#include <algorithm>
#include <thread>
#include <utility>

#include <fmt/format.h>

namespace model {

Program::Program(std::uint64_t seed, std::uint64_t operations) : random_(seed), seed_(seed), operations_(operations) {
  traits_.faults = chance(3);
  traits_.lost = chance(6);
  traits_.foreign = chance(3);
  traits_.automatic = chance(5);
  traits_.orphans = chance(4);
  traits_.background = chance(8);
  traits_.two_devices = !traits_.lost && chance(4);
  traits_.large = chance(8);
  const bool watched = traits_.orphans || traits_.background;
  traits_.after_all = watched && !traits_.foreign && !traits_.two_devices && chance(2);
  if (watched) ledger_.set_watched();
  traits_.own_addresses = chance(3);
  if (chance(2)) traits_.clock = std::chrono::nanoseconds(1 + below(5000));
  for (std::size_t i = 0; i != (traits_.two_devices ? 2 : 1); ++i) {
    own_addresses_.push_back(traits_.own_addresses && (i == 0 || chance(2)));
    thole::SimulationOptions options{.latency = traits_.clock, .stepped = true};  // simulated time costs none
    if (traits_.clock.count() != 0 && chance(2)) options.bytes_per_second = 1e9;
    options.own_addresses = own_addresses_.back();
    options.seed = random_();
    devices_.push_back(thole::Device::simulated(options));
  }
  traits_text_ = fmt::format("seed {}:{}{}{}{}{}{}{}{}{}{}{}", seed, traits_.faults ? " faults" : "",
                             traits_.lost ? " lost" : "", traits_.foreign ? " foreign" : "",
                             traits_.automatic ? " automatic" : "", traits_.orphans ? " orphans" : "",
                             traits_.background ? " background" : "", traits_.two_devices ? " two-devices" : "",
                             traits_.large ? " large" : "", traits_.after_all ? " after-all" : "",
                             traits_.clock.count() != 0 ? " clock" : "", traits_.own_addresses ? " own-addresses" : "");
  make_arena();
  make_heap();
  for (int i = 0; i != 3; ++i) make_lane();
}

Program::~Program() = default;

void Program::operation() {
  if (chance(16)) return rare_operation();
  const std::size_t which = below(100);
  if (which < 20) return make();
  if (which < 28) return to_device_new();
  if (which < 38) return to_device_span();
  if (which < 44) return to_host_new();
  if (which < 51) return to_host_span();
  if (which < 57) return borrow();
  if (which < 60) return end_borrow();
  if (which < 72) return drop();
  if (which < 75) return move_buffer();
  if (which < 79) return drop_device_memory();
  if (which < 80) return make_device_memory();
  if (which < 84) return use_on();
  if (which < 86) return host_function();
  if (which < 88) return event();
  if (which < 91) return collect();
  if (which < 93) return chance(2) ? capture() : launch();
  if (which < 94) return destroy_graph();
  if (which < 95) return chance(3) ? wrong_calls() : hold_or_release();
  if (which < 96) return chance(4) ? drain() : synchronize();
  if (which < 97) return chance(3) ? make_arena() : make_heap();
  if (which < 98) return make_lane();
  if (which < 99) return chance(3) ? look_at_lane() : stats();
  fault();
}

void Program::rare_operation() {
  switch (below(57)) {
    case 0:
    case 1:
      return dangling_span();
    case 2:
    case 3:
      return owning_host_function();
    case 4:
    case 5:
    case 6:
      return capture_in_a_call();
    case 7:
    case 8:
      return share();
    case 9:
      return heap_ends_beside();
    case 10:
      return chance(16) ? fork_child() : use_on();
    case 11:
    case 12:
      return use_several();
    case 13:
      return use_list();
    case 14:
    case 15:
      return split_buffer();
    case 16:
      return join_parts();
    case 54:
    case 55:
      return split_device_memory();
    case 56:
      return join_device_parts();
    case 17:
    case 18:
    case 19:
    case 20:
    case 21:
      return timed_operation();
    case 22:
    case 23:
      return ask_for_notice();
    case 24:
    case 25:
    case 26:
      return capture_by_thole();
    case 27:
    case 28:
      return launch_kernel();
    case 29:
      return capture_elsewhere();
    case 30:
    case 31:
      return fork_or_join();
    case 32:
    case 33:
    case 34:
    case 35:
    case 36:
    case 37:
    case 38:
    case 39:
      return raw_operation();
    case 40:
    case 41:
      return report();
    case 42:
    case 43:
    case 44:
    case 45:
      return measure();
    case 46:
    case 47:
    case 48:
      return capture_by_hand();
    case 49:
    case 50:
    case 51:
      return copy_by_place();
    default:
      return use_on();
  }
}

std::uint64_t Program::run() {
  for (std::uint64_t i = 0; i != operations_; ++i) {
    operation();
    look_at_kernels();
    look_at_notices();
    // A device that lags behind, or keeps up, or is idle, in turns.
    const std::size_t pace = (i / 64) % 4;
    if (pace != 0 && chance(4 - pace)) step(1 + below(2 * pace));
    if (chance(64)) (void)run_dry();
    if (chance(8)) ledger_.forget();
  }
  if (traits_.lost)
    lose_device();
  else
    finish();
  return operations_;
}

void Program::lose_device() {
  say("lose the device");
  fault_.reset();
  lost_ = true;
  devices_[0].simulation().lose_device();
  ledger_.lose();
  for (const Lane& lane : lanes_) {
    (void)call(false, {Errc::device_lost}, [&] { lane.ref->synchronize(); });
    (void)call(false, {Errc::device_lost}, [&] { (void)lane.ref->record(); });
  }
  for (const Heap& heap : heaps_) {
    (void)call(false, {Errc::device_lost}, [&] { heap.heap.drain(); });
    (void)call(false, {Errc::device_lost}, [&] { (void)heap.heap.make_buffer<Word>(16); });
    (void)heap.heap.collect();
    (void)heap.heap.stats();
  }
  for (HostBuffer& target : buffers_) {
    const Memory& memory = *target.memory;
    const bool borrowed = memory.writer || memory.readers != 0;
    const bool open = ledger_.conflict(memory, true, true);
    const bool may = memory.count == 0 || (!borrowed && !open);
    // What had completed may not have been known to be.
    (void)call(may, {memory.count != 0 && borrowed ? Errc::borrowed : Errc::device_lost, Errc::device_lost},
               [&] { (void)target.buffer.borrow_mut(); });
    if (const auto waited = target.buffer.wait_for(std::chrono::nanoseconds(0));
        memory.count != 0 && (waited || waited.error().errc() != Errc::device_lost))
      broken("wait_for on a lost device");
    for (const Lane& lane : lanes_)
      if (memory.count != 0 && !borrowed)
        (void)call(false, {Errc::device_lost}, [&] { (void)target.buffer.async_to_device(*lane.ref); });
  }
  for (const Raw& raw : raws_) {
    for (const Lane& lane : lanes_) {
      (void)call(false, {Errc::device_lost}, [&] { raw.heap.deallocate(raw.memory->data, *lane.ref); });
      (void)call(false, {Errc::device_lost},
                 [&] { raw.heap.record_use(raw.memory->data, *lane.ref, thole::Access::device_reads); });
    }
    (void)call(false, {Errc::device_lost}, [&] { raw.heap.deallocate_after_all(raw.memory->data); });
    if (!raw.heap.find(raw.memory->data)) broken("raw memory of a lost device is not found");
  }
  for (const KeptEvent& kept : events_)
    (void)call(false, {Errc::device_lost}, [&] { (void)kept.event.elapsed_since(events_.front().event); });
  drop_everything();
  await_notices();
  (void)devices_[0].take_error();
}

void Program::drop_everything() {
  // Whatever has become of the device.
  for (Graph& graph : graphs_)
    if (graph.native != nullptr)
      graph.graph = thole::Graph::from_native(devices_[graph.device],
                                              static_cast<thole::NativeGraph>(std::exchange(graph.native, nullptr)));
  while (!buffers_.empty() || !kept_.empty() || !device_memory_.empty() || !lanes_.empty() || !heaps_.empty() ||
         !arenas_.empty() || !graphs_.empty() || !events_.empty() || !lists_.empty() || !raws_.empty()) {
    const auto drop_one = [&](auto& from) {
      if (from.empty()) return;
      std::swap(from[below(from.size())], from.back());
      from.pop_back();
    };
    switch (below(10)) {
      case 0:
        drop_one(buffers_);
        break;
      case 1:
        drop_one(kept_);
        break;
      case 2:
        drop_one(device_memory_);
        break;
      case 3:
        drop_one(lanes_);
        break;
      case 4:
        drop_one(heaps_);
        break;
      case 5:
        drop_one(arenas_);
        break;
      case 6:
        drop_one(graphs_);
        break;
      case 7:
        drop_one(lists_);
        break;
      case 8:
        if (!raws_.empty()) (void)raws_.back().heap.deallocate(raws_.back().memory->data);
        drop_one(raws_);
        break;
      default:
        drop_one(events_);
    }
  }
}

void Program::finish() {
  say("finish");
  if (fault_fired()) fault_seen_ = true;
  if (fault_) devices_[0].simulation().fail_call(fault_->call, 0);
  fault_.reset();
  for (Lane& lane : lanes_) {
    device(lane).simulation().release(*lane.ref);
    if (lane.capture && lane.branch_of == 0) end_capture(lane);  // its branches end with it
  }
  for (const auto& device : devices_) release_all(device);
  ledger_.look();
  events_.clear();
  while (!kept_.empty()) end_borrow();
  while (!graphs_.empty()) destroy_graph();
  if (chance(2)) {
    while (!buffers_.empty()) drop();
    (void)settle_all();
  } else {
    if (!settle_all()) broken("work is left that cannot go on");
    while (!buffers_.empty()) drop();
  }
  while (!lists_.empty()) drop_list();
  while (!raws_.empty()) deallocate_raw();
  for (Lane& lane : lanes_)
    if (lane.capture) end_capture(lane);  // one that began for raw memory
  while (!graphs_.empty()) destroy_graph();
  if (!settle_all()) broken("work is left that cannot go on");
  await_notices();
  look_at_kernels();
  if (ledger_.copies() != 0) broken("copies have not arrived when everything is done");
  all_back();
}

void Program::all_back() {
  // So often at most while that thread does not get the processor: some seconds, on a busy machine.
  constexpr int most_looks = 1'000'000;
  if (heaps_.empty()) make_heap();
  say("everything must be back");
  collect_all();
  const bool exact = !traits_.background && !traits_.orphans && !uses_lost_;
  for (const Heap& heap : heaps_) {
    if (!exact) {
      const WhileWaiting stepping(devices_, lanes_);
      call(true, {}, [&] { heap.heap.drain(); });
    }
    // A thread of the library's, which watches for an earlier program's device, may have some in its hands.
    auto stats = heap.heap.stats();
    for (int i = 0; i != most_looks && exact && stats.in_flight + stats.in_use != 0; ++i) {
      std::this_thread::yield();
      (void)run_dry();  // a stream that had no room for its last event gets it now
      (void)heap.heap.collect();
      stats = heap.heap.stats();
    }
    if (exact && (stats.in_flight != 0 || stats.in_use != 0))
      broken(fmt::format("a heap of arena {} still has {} bytes in flight and {} in use", heap.arena, stats.in_flight,
                         stats.in_use));
  }
  for (const Arena& arena : arenas_) {
    const auto heap = std::ranges::find(heaps_, arena.number, &Heap::arena);
    if (heap == heaps_.end() || uses_lost_) continue;
    // What goes back behind everything goes back on a thread of the library's own.
    const std::chrono::seconds patience(after_all_ ? 30 : 0);
    const WhileWaiting stepping(devices_, lanes_);
    const auto all = after_all_ ? heap->heap.try_make_buffer_for<std::byte>(arena.options.bytes, patience)
                                : heap->heap.try_make_buffer<std::byte>(arena.options.bytes);
    if (!all)
      broken(fmt::format("arena {} cannot give all of its {} bytes: {}", arena.number, arena.options.bytes,
                         all.error().what()));
  }
  while (!device_memory_.empty()) device_memory_.pop_back();
  (void)run_dry();
  while (!lanes_.empty()) drop_lane(lanes_.back());
  // That thread, again.
  const auto device_bytes_left = [this] {
    return std::ranges::any_of(devices_, [](auto& device) { return device.simulation().device_bytes() != 0; });
  };
  for (int i = 0; i < 2 || (i < most_looks && exact && !fault_seen_ && device_bytes_left()); ++i) {
    if (i >= 2) std::this_thread::yield();
    collect_all();
    (void)run_dry();
  }
  for (thole::Device& device : devices_) {
    if (const auto bytes = device.simulation().device_bytes(); bytes != 0 && !fault_seen_ && exact)
      broken(fmt::format("{} bytes of device memory are left", bytes));
    if (const auto error = device.take_error(); error && !fault_seen_ && !capture_dropped_)
      broken(fmt::format("a destructor met an error: {}", error->what()));
  }
  arenas_.clear();
  heaps_.clear();
  if (!exact) return;  // a thread of the library's own may still hold some of it
  if (const auto bytes = devices_[0].simulation().arena_bytes(); bytes != 0)
    broken(fmt::format("{} bytes are still pinned when everything is gone", bytes));
}

}  // namespace model
