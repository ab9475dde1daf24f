#pragma once

// One random program on stepped simulated devices, checked against the model after every call. The seed decides
// everything: the calls, the order in which the devices complete, and the faults.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <initializer_list>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include <thole/thole.hpp>

#include "holdings.hpp"
#include "model.hpp"

namespace model {

class Program {
 public:
  Program(std::uint64_t seed, std::uint64_t operations);
  ~Program();
  /// Throws Broken. Returns how many operations were done.
  std::uint64_t run();
  /// The last operations, for a report.
  std::string trace() const;

 private:
  // ---- chance.cpp: choosing, calling, stepping
  std::size_t below(std::size_t bound) { return random_() % bound; }
  bool chance(std::size_t in) { return below(in) == 0; }
  std::size_t some_count();
  template <class T>
  T* pick(std::vector<T>& from) {
    return from.empty() ? nullptr : &from[below(from.size())];
  }
  Lane* pick_lane(bool may_capture);
  Lane* lane(std::uint64_t id);
  HostBuffer* pick_buffer();
  void say(const std::string& text);
  /// The outcome of a call: empty when it succeeded. Only the expected codes may come, and success only if `may`, a
  /// bool or a function that looks at the ledger afterwards. A fault that was asked for may come at any time.
  template <class May, class F>
  std::optional<Errc> call(May may, std::initializer_list<Errc> expected, F&& f);
  /// A thread of the library's may have run what was open a moment ago.
  template <class May>
  bool holds(const May& may);
  void judge(const std::optional<thole::Error>& error, bool success, std::initializer_list<Errc> expected);
  bool fault_fired();
  void step(std::size_t operations);
  void look_at_kernels();
  /// How many operations are enqueued and not complete, on all devices.
  std::size_t pending() const;
  /// Runs everything that can; false when something is left.
  bool run_dry();
  bool settle_all();
  /// Orders the stream after the memory's conflicting uses that thole cannot know of; after all of them, if thole will
  /// not know of what follows. False: it cannot be done.
  bool order(Lane& lane, const Memory& memory, bool writes, bool all = false);
  bool after(Lane& lane, std::uint64_t stream);
  bool busy_for_host(const Memory& memory, bool writes) const;
  const thole::Device& device(const Lane& lane) const { return devices_[lane.device]; }
  /// Where work in the stream finds memory: device memory anywhere, pinned memory perhaps at an address of the
  /// device's.
  const Word* place(const Lane& lane, const Memory& memory) const;

  // ---- host_operations.cpp
  void make();
  void make_variant(Heap& heap);
  void make_other_type(Heap& heap);
  void own(Heap& heap, Buffer buffer, bool filled, const Content& content, unsigned tag);
  MemoryPtr adopt(const Heap& heap, const Buffer& buffer, std::size_t count, bool filled);
  void borrow();
  void try_borrow(HostBuffer& target, bool write);
  void blocking_borrow(HostBuffer& target, bool write);
  void end_borrow();
  void read_kept(const Kept& kept);
  void move_buffer();
  void moved_from_calls(Buffer& empty);
  void drop();
  void drop_memory(HostBuffer&& target);

  // ---- copy_operations.cpp
  void to_device_new();
  void to_device_new(const HostBuffer& from, Lane& lane);
  void to_device_span();
  void to_host_new();
  void to_host_new(const DeviceMemory& from, Lane& lane);
  void to_host_span();
  void make_device_memory();
  void drop_device_memory();
  void dangling_span();
  void wrong_calls();
  void use_on();
  void use_on(HostBuffer* target, Lane* lane);
  void host_function();
  bool may_drop(const DeviceMemory& target);
  MemoryPtr device_memory(thole::DeviceBuffer<Word>& buffer, const Lane& lane);
  void captured(Lane& lane, const Node& node);
  bool in_capture(const Lane& lane, const Memory& memory, bool writes) const;
  void enqueued(Lane& lane, const Node& node);

  // ---- list_operations.cpp: work that uses several buffers
  /// What was enqueued for one of them.
  struct Stand {
    const Kernel* kernel;  // only its address: it may have run
    std::shared_ptr<const Content> content;
    Entry entry;
  };
  void use_several();
  void use_list();
  void run_list(const KeptList& kept, Lane& lane);
  void drop_list();
  std::vector<Errc> forbidden(const Lane& lane, const std::vector<Entry>& entries) const;
  template <class Call>
  void use_as_one(Lane& lane, const std::vector<Entry>& entries, Call&& call_it);
  void enqueue_each(Lane& lane, const std::vector<Entry>& entries, void* native, std::vector<Stand>& stands);
  void touch_one_inside(const std::vector<Entry>& entries);

  // ---- kernel_operations.cpp: launch() with a function for the CPU
  void launch_kernel();

  // ---- zero_copy_operations.cpp: work that finds pinned memory where the device does
  void copy_by_place();

  // ---- part_operations.cpp: parts of one allocation
  void split_buffer();
  void split_device_memory();
  void join_parts();
  void join_device_parts();
  template <class Held>
  void split_one(std::vector<Held>& from);
  template <class Held>
  Held* neighbour(std::vector<Held>& among, const Memory& of);
  template <class Held>
  void join_some(std::vector<Held>& from);
  template <class Held>
  void join(std::vector<Held>& from, const std::vector<std::size_t>& chosen);
  void will_dangle(thole::DeviceBuffer<Word>& buffer, const Memory& memory);
  void dangle();
  bool shared_with_others(const Memory& memory) const;

  // ---- timed_operations.cpp: waits with an end
  void timed_operation();
  std::chrono::nanoseconds short_time();
  template <class Wait>
  void must_succeed_when_done(Wait&& wait);
  void timed_borrow();
  void timed_wait();
  void timed_event();
  void timed_drain();
  void timed_synchronize();
  void timed_to_host();

  // ---- measure_operations.cpp: events that measure time
  KeptEvent* keep_event(Lane& lane, bool timed);
  void measure();
  void ask_for_time();
  void ask_in_capture(const thole::Event& captured);
  void moved_from_event();
  std::vector<Errc> no_time(const KeptEvent& start, const KeptEvent& end) const;
  void check_time(const KeptEvent& start, const KeptEvent& end, std::chrono::nanoseconds time) const;

  // ---- notice_operations.cpp: functions that run, and coroutines that go on, when an event is ready
  void ask_for_notice();
  void co_await_event();
  bool may_be_told() const;
  void look_at_notices();
  void await_notices();

  // ---- raw_operations.cpp: a heap's memory by its addresses
  void raw_operation();
  void allocate_raw();
  void use_raw();
  std::optional<Use> enqueue_raw_work(const Raw& raw, Lane& lane, bool writes);
  void record_raw();
  void wait_raw();
  void find_raw();
  void wrong_raw();
  void deallocate_raw();

  // ---- report_operations.cpp
  void report();
  unsigned next_tag();
  static thole::SourceLocation location(unsigned tag);

  // ---- callback_operations.cpp: functions that touch the buffers that they are about
  void touch_inside(HostBuffer& target, bool writes);
  void owning_host_function();

  // ---- middle_operations.cpp: captures that begin or end in the middle of a call
  void capture_in_a_call();
  void begin_in_a_copy(Lane& lane);
  void end_in_a_copy(Lane& lane);
  void capture_in_a_record(Lane& lane);

  // ---- thread_operations.cpp: what other threads and processes do beside this one
  void share();
  void heap_ends_beside();
  void fork_child();
  int in_child();
  void drop_everything();

  // ---- graph_operations.cpp
  void capture();
  void begin_capture(Lane& lane);
  void end_capture(Lane& lane);
  void capture_by_thole();
  void work_in_capture(bool copies_alone);
  void read_beside(const Graph& graph);
  void launch();
  bool has_executable(Graph& graph);
  void launched(Graph& graph, const Lane& lane, bool all_named);
  void destroy_graph();

  // ---- fork_operations.cpp: several streams in one capture
  void fork_or_join();
  void fork(const Lane& from, Lane& to);
  bool wait_in_capture(const Lane& waiter, const Lane& before);
  bool has_branches(const Lane& lane) const;
  /// False: it has left one out.
  bool join_branches(const Lane& origin);
  void branches_end(std::uint64_t origin);

  // ---- elsewhere_operations.cpp: graphs that thole knows nothing of
  void capture_elsewhere();
  void capture_raw_work(Graph& graph, const Lane& lane, void* native, const HostBuffer& host);
  void launch_elsewhere(Graph& graph);

  // ---- native_operations.cpp: graphs that the program makes, and hands to thole
  void capture_by_hand();
  void hand_over(Graph& graph);
  void destroy_native(Graph& graph);

  // ---- place_operations.cpp: arenas, heaps, streams, events and the calls on all of them
  void make_arena();
  void make_heap();
  void make_lane();
  void look_at_lane();
  void drop_arena();
  void drop_heap();
  void drop_lane();
  void drop_lane(Lane& lane);
  void hold_or_release();
  thole::ArenaOptions some_arena();
  bool arena_idle(std::uint64_t number) const;
  void event();
  void collect();
  void collect_all();
  void drain();
  void synchronize();
  void stats();
  void fault();
  void fault(thole::SimulatedCall which);

  // ---- program.cpp
  void operation();
  void rare_operation();
  void lose_device();
  void finish();
  void all_back();

  std::mt19937_64 random_;
  std::uint64_t seed_;
  std::uint64_t operations_;
  Traits traits_;
  std::string traits_text_;
  std::vector<thole::Device> devices_;
  std::vector<bool> own_addresses_;  // of each of them
  std::vector<Arena> arenas_;
  std::vector<Heap> heaps_;
  std::vector<Lane> lanes_;
  std::vector<HostBuffer> buffers_;
  std::vector<DeviceMemory> device_memory_;
  std::deque<thole::DeviceSpan<Word>> dangling_;  // of device memory that is gone
  std::vector<thole::DeviceSpan<Word>> may_dangle_;
  std::vector<Kept> kept_;
  std::vector<KeptList> lists_;
  std::vector<Raw> raws_;
  std::vector<KeptEvent> events_;
  std::vector<Graph> graphs_;
  std::deque<std::shared_ptr<Notice>> notices_;
  std::deque<std::shared_ptr<Notice>> never_;  // of coroutines that are gone
  std::deque<std::unique_ptr<Kernel>> kernels_;
  int inside_ = 0;                                   // functions of use_on that are running
  const std::vector<Node>* only_capture_ = nullptr;  // whose streams alone are picked, where one may capture
  Kernel graph_kernel_;                              // what graphs run, any number of times
  Ledger ledger_;
  std::uint64_t arena_numbers_ = 0;
  std::uint64_t heap_numbers_ = 0;
  std::uint64_t event_numbers_ = 0;
  unsigned tags_ = 0;
  bool freed_in_capture_ = false;  // by a stream's order: no event says when, until the capture has ended
  bool after_all_ = false;         // raw memory was given back behind everything
  bool lost_ = false;
  bool capture_dropped_ = false;  // with its stream, which is an error that thole keeps
  struct Fault {
    thole::SimulatedCall call;
    std::size_t at;
  };
  std::optional<Fault> fault_;
  bool uses_lost_ = false;   // a stream went whose last event failed: what it used never comes back
  bool void_seen_ = false;   // an event says nothing: what it was to cover cannot be known while its stream captures
  bool fault_seen_ = false;  // from then on a stream may have uses without an event
  std::deque<std::string> trace_;
};

template <class T>
T or_throw(thole::Result<T> result) {
  if (!result) throw result.error();
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

template <class May>
bool Program::holds(const May& may) {
  if constexpr (std::is_same_v<May, bool>) {
    return may;
  } else {
    if (may()) return true;
    ledger_.refresh();
    return may();
  }
}

template <class May, class F>
std::optional<Errc> Program::call(May may, std::initializer_list<Errc> expected, F&& f) {
  std::optional<thole::Error> error;
  try {
    f();
  } catch (const thole::Error& thrown) {
    error = thrown;
  }
  judge(error, error || holds(may), expected);
  if (!error) return {};
  return error->errc();
}

}  // namespace model
