#include "backend/simulated/run.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "backend/simulated/call.hpp"
#include "backend/simulated/capture.hpp"
#include "backend/simulated/host_thread.hpp"
#include "backend/simulated/kernel.hpp"
#include "backend/simulated/waits.hpp"

namespace thole::inline v0_1::detail::simulated {

namespace {

constexpr std::size_t most_workers = 64;

/// Runs the first of the ready streams for as long as it can go on. Branches of one launch take turns: else the one
/// that has a thread first would often be done before the next one has any, and a forgotten join would not show.
void run_ready(Lock& lock, std::deque<StreamPtr>& ready) {
  const auto stream = std::move(ready.front());
  ready.pop_front();
  stream->ready = false;
  while (stream->mode == SimulatedStream::Mode::automatic && stream->can_go_on()) {
    const Operation& next = stream->queue.front();
    const bool takes_turns = next.of_branches && next.kind != Operation::Kind::wait;
    if (!run_one(lock, stream) || takes_turns) break;
  }
  schedule(stream);
}

void worker(SimulatedDevice& device) {
  Lock lock(machine().mutex);
  for (;;) {
    device.work.wait(lock, [&] { return device.stop || !device.ready.empty(); });
    if (device.ready.empty()) return;
    ++device.busy_workers;
    run_ready(lock, device.ready);
    run_inline(lock);
    --device.busy_workers;
  }
}

/// Makes sure that a worker is free for each ready stream, up to the bound. False when there is none at all.
bool staff(SimulatedDevice& device) {
  const std::size_t idle = device.workers.size() - device.busy_workers;
  if (idle < device.ready.size() && device.workers.size() < most_workers + device.waiting_threads) {
    try {
      device.workers.emplace_back([owner = device.shared_from_this()] { worker(*owner); });
    } catch (...) {
      // No thread to be had: those that exist take the stream in turn.
    }
  }
  return !device.workers.empty();
}

const char* run_copy(Lock& lock, const Operation& copy) {
  if (!same_pages(copy.source, copy.bytes) || !same_pages(copy.destination, copy.bytes))
    return "a copy met other pages than were pinned there: CUDA would have gone on with the old ones, and said nothing";
  const std::byte* const source = copy.staged ? copy.staged.get() : reach(copy.source, copy.bytes, copy.source_id);
  if (source == nullptr)
    return "illegal access: a copy read memory that is not pinned or not allocated any more, or not yet";
  std::byte* const destination = reach(copy.destination, copy.bytes, copy.destination_id);
  if (destination == nullptr)
    return "illegal access: a copy wrote memory that is not pinned or not allocated any more, or not yet";
  // Small parts of branches' copies are moved in the order that the seed picks, not as threads get the mutex back.
  constexpr std::size_t small = std::size_t{1} << 20;
  const bool keeps_lock = copy.of_branches && copy.bytes <= small;
  if (!keeps_lock) lock.unlock();
  std::memmove(destination, source, copy.bytes);
  if (!keeps_lock) lock.lock();
  return nullptr;
}

void finish_point(Point& point, Duration at) {
  point.done = true;
  point.at = at;
  const auto waiters = std::move(point.waiters);
  point.waiters.clear();
  for (const auto& waiter : waiters) schedule(waiter);
}

void lose_point(Point& point) {
  point.lost = true;
  const auto waiters = std::move(point.waiters);
  point.waiters.clear();
  for (const auto& waiter : waiters) schedule(waiter);
}

/// Nothing that is enqueued on the device will run: what waits for it elsewhere hears so, and its captures end.
void drop_queues(SimulatedDevice& device, Garbage& garbage) {
  for (const auto& [id, stream] : device.streams) {
    for (const Operation& operation : stream->queue) {
      if (operation.kind != Operation::Kind::wait && operation.point != nullptr) lose_point(*operation.point);
    }
    garbage.push_back(std::make_shared<std::deque<Operation>>(std::exchange(stream->queue, {})));
    stream->places = 0;
    if (const auto capture = stream->capture) discard(capture, garbage);
  }
}

/// The end of the device's own memory and of what it pinned.
void forget_ranges(SimulatedDevice& device) {
  for (RangeTable* table : {&machine().pinned, &machine().device_memory}) {
    for (auto next = table->begin(); next != table->end();) {
      const Range range = (next++)->second;
      if (range.device != &device) continue;
      table->erase(range.data);
      forget_mapped(range);
      if (table == &machine().device_memory) {
        device.memory.free({range.data, range.view}, range.bytes);
      } else if (range.from_machine) {
        std::free(range.data);
      }
    }
  }
}

/// While it lives, this thread waits with an operation in its hands: streams that are ready get other threads.
class Waiting {
 public:
  explicit Waiting(SimulatedDevice& device) : device_(device) {
    ++device_.waiting_threads;
    if (!device_.ready.empty() && staff(device_)) device_.work.notify_one();
  }
  ~Waiting() { --device_.waiting_threads; }
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;

 private:
  SimulatedDevice& device_;
};

/// Waits in real time until the paced copy may complete.
void pace(Lock& lock, SimulatedStream& stream, const Operation& operation) {
  WallTime from = std::max(stream.paced_until, operation.enqueued_at);
  Link* const link = stream.device->link_of(operation);
  if (link != nullptr) from = std::max(from, link->paced_until);
  if (operation.kind == Operation::Kind::wait) from = std::max(from, std::chrono::steady_clock::now());
  const WallTime until = from + stream.device->time_for(operation);
  stream.paced_until = until;
  if (link != nullptr) link->paced_until = until;
  const Waiting waits(*stream.device);
  lock.unlock();
  std::this_thread::sleep_until(until);
  lock.lock();
}

/// Late mode: waits until somebody wants the operation, or it is due.
void linger(Lock& lock, const SimulatedStream& stream, const Operation& operation) {
  const std::uint64_t mine = stream.completed + 1;
  const Waiting waits(*stream.device);
  machine().changed.wait_until(lock, operation.due, [&] { return stream.demanded >= mine || stream.device->lost; });
}

/// Runs the operation; gives the reason where it breaks the device.
const char* execute(Lock& lock, SimulatedStream& stream, const Operation& operation) {
  switch (operation.kind) {
    case Operation::Kind::copy:
      return run_copy(lock, operation);
    case Operation::Kind::kernel:
      return run_kernel(lock, *operation.kernel);
    case Operation::Kind::host_function: {
      const Waiting waits(*stream.device);
      run_host_function(lock, *stream.device, operation);
      return nullptr;
    }
    case Operation::Kind::wait:
      if (operation.point->lost) return "the stream waits for an event of a device that was lost";
      stream.clock = std::max(stream.clock, operation.point->at);
      return nullptr;
    case Operation::Kind::allocate:
      if (Range* range = machine().device_memory.at(operation.destination)) range->usable = true;
      return nullptr;
    case Operation::Kind::free: {
      Range* range = machine().device_memory.at(operation.destination);
      if (range == nullptr || range->id != operation.destination_id) return "device memory was freed twice";
      wait_while_touched(lock, *range);
      const Range gone = *range;
      stream.leaving_bytes -= gone.bytes;
      machine().device_memory.erase(gone.data);
      gone.device->memory.free({gone.data, gone.view}, gone.bytes);
      return nullptr;
    }
    case Operation::Kind::record:
      return nullptr;
  }
  return nullptr;
}

}  // namespace

void forget_mapped(const Range& range) noexcept {
  if (range.mapped == nullptr) return;
  machine().mapped.erase(range.mapped);
  give_back_addresses(range.mapped, range.bytes);
}

bool same_pages(const void* data, std::size_t bytes) {
  for (RangeTable* table : {&machine().pinned, &machine().mapped}) {
    const Range* range = table->find(data, bytes).range;
    if (range == nullptr) continue;
    return range->from_machine || !range->device->options.watch_registrations ||
           are_marked(range->view + (static_cast<const std::byte*>(data) - range->data), bytes);
  }
  return true;
}

std::byte* reach(const void* data, std::size_t bytes, std::uint64_t id) {
  if (id == 0) return static_cast<std::byte*>(const_cast<void*>(data));
  for (RangeTable* table : {&machine().pinned, &machine().device_memory, &machine().mapped}) {
    const Range* range = table->find(data, bytes).range;
    if (range != nullptr && range->id == id && range->usable)
      return range->view + (static_cast<const std::byte*>(data) - range->data);
  }
  return nullptr;
}

void enqueue(const StreamPtr& stream, Operation operation) {
  SimulatedDevice& device = *stream->device;
  if (device.paced()) operation.enqueued_at = std::chrono::steady_clock::now();
  if (device.late()) {
    const auto most = static_cast<std::uint64_t>(device.options.late.count());
    operation.due = std::chrono::steady_clock::now() + Duration(device.random() % most);
  }
  if (operation.point != nullptr && operation.kind != Operation::Kind::wait) {
    operation.point->stream = stream;
    operation.point->position = stream->enqueued + 1;
  }
  const std::size_t leaving = operation.kind == Operation::Kind::free ? operation.bytes : 0;
  const std::size_t places = operation.places;
  stream->queue.push_back(std::move(operation));
  try {
    schedule(stream);
  } catch (...) {  // the system has no memory: then nothing has happened
    stream->queue.pop_back();
    throw;
  }
  ++stream->enqueued;
  stream->leaving_bytes += leaving;
  stream->places += places;
}

void schedule(const StreamPtr& stream) {
  SimulatedDevice* device = stream->device;
  if (device == nullptr || device->lost || stream->mode != SimulatedStream::Mode::automatic || stream->running ||
      stream->ready || stream->queue.empty()) {
    return;
  }
  if (Operation& next = stream->queue.front(); next.blocked()) {
    auto& waiters = next.point->waiters;
    if (std::find(waiters.begin(), waiters.end(), stream) == waiters.end()) waiters.push_back(stream);
    return;
  }
  if (device->options.stepped) {
    machine().ready_inline.push_back(stream);
  } else if (device->ready.push_back(stream); staff(*device)) {
    if (stream->queue.front().of_branches)  // the seed picks whose turn comes first
      std::swap(device->ready.back(), device->ready[device->random() % device->ready.size()]);
    device->work.notify_one();
  } else {
    device->ready.pop_back();
    machine().ready_inline.push_back(stream);
  }
  stream->ready = true;
}

void run_inline(Lock& lock) {
  auto& ready = machine().ready_inline;
  while (!ready.empty()) run_ready(lock, ready);
}

bool run_one(Lock& lock, const StreamPtr& stream) {
  SimulatedDevice& device = *stream->device;
  Operation operation = std::move(stream->queue.front());
  stream->queue.pop_front();
  stream->places -= operation.places;
  stream->running = true;
  stream->current = &operation;
  Garbage garbage;
  if (device.late()) linger(lock, *stream, operation);
  if (device.paced()) pace(lock, *stream, operation);
  if (!device.lost) {
    if (const char* broken = execute(lock, *stream, operation)) lose(device, broken, garbage);
  }
  stream->running = false;
  stream->current = nullptr;
  const bool done = !device.lost;
  const bool marks = operation.point != nullptr && operation.kind != Operation::Kind::wait;
  if (done) {
    ++stream->completed;
    Link* const link = device.link_of(operation);
    if (link != nullptr) stream->clock = std::max(stream->clock, link->clock);
    stream->clock += device.time_for(operation);
    if (link != nullptr) link->clock = stream->clock;
    device.now = std::max(device.now, stream->clock);
    if (marks) finish_point(*operation.point, stream->clock);
  } else if (marks) {
    lose_point(*operation.point);
  }
  if (stream->destroyed && stream->queue.empty()) device.streams.erase(stream->id);
  machine().changed.notify_all();
  if (operation.of_branches) schedule(stream);  // before the mutex is free: its next turn may come at once
  if (operation.graph != nullptr || operation.staged != nullptr || operation.kernel != nullptr || !garbage.empty()) {
    lock.unlock();
    operation = {};
    garbage.clear();
    lock.lock();
  }
  return done;
}

void lose(SimulatedDevice& device, const std::string& because, Garbage& garbage) {
  if (device.lost) return;
  device.lost = true;
  device.lost_because = because;
  drop_queues(device, garbage);
  if (device.options.loss_is_final.value_or(!device.options.stepped)) {
    machine().lost_because = because;
    for (const auto& other : machine().devices) lose(*other, because, garbage);
  }
  machine().changed.notify_all();
}

void order_default_streams(const StreamPtr& stream) {
  SimulatedDevice& device = *stream->device;
  const auto wait_for = [&](const StreamPtr& other) {
    if (other == nullptr || other->enqueued == other->completed || other->capture) return;
    if (stream->behind[other->id] == other->enqueued) return;
    Operation mark;
    mark.kind = Operation::Kind::record;
    mark.point = std::make_shared<Point>();
    mark.places = 0;
    Operation wait;
    wait.kind = Operation::Kind::wait;
    wait.point = mark.point;
    wait.places = 0;
    enqueue(other, std::move(mark));
    enqueue(stream, std::move(wait));
    stream->behind[other->id] = other->enqueued;
  };
  if (stream->per_thread) wait_for(device.legacy_stream);
  if (stream != device.legacy_stream) return;
  for (const auto& [thread, other] : device.thread_streams) wait_for(other);
}

namespace {

/// The point after the last operation that the stream has been given, which is not done.
std::shared_ptr<Point> point_at_end(const StreamPtr& stream) {
  Operation* const last = stream->queue.empty() ? stream->current : &stream->queue.back();
  if (last == nullptr || last->kind == Operation::Kind::wait) {  // whose point is another stream's
    Operation mark;
    mark.kind = Operation::Kind::record;
    mark.point = std::make_shared<Point>();
    enqueue(stream, mark);
    return mark.point;
  }
  if (last->point == nullptr) {
    last->point = std::make_shared<Point>();
    last->point->stream = stream;
    last->point->position = stream->enqueued;
  }
  return last->point;
}

}  // namespace

/// Of a stream that nobody else knows: it runs by itself, waits for all others, and ends with that.
std::shared_ptr<Point> point_behind_all(SimulatedDevice& device) {
  std::vector<StreamPtr> busy;
  for (const auto& [id, stream] : device.streams)
    if (stream->completed != stream->enqueued) busy.push_back(stream);
  if (busy.empty()) return nullptr;
  Operation end;
  end.kind = Operation::Kind::record;
  end.point = std::make_shared<Point>();
  const StreamPtr all = make_stream(device);
  all->mode = SimulatedStream::Mode::automatic;
  all->destroyed = true;
  for (const StreamPtr& stream : busy) {
    Operation wait;
    wait.kind = Operation::Kind::wait;
    wait.point = point_at_end(stream);
    enqueue(all, std::move(wait));
  }
  auto point = end.point;
  enqueue(all, std::move(end));
  return point;
}

void shut_down(SimulatedDevice& device) {
  Machine& all = machine();
  Garbage garbage;
  Lock lock(all.mutex);
  // A worker may be here itself, from a graph's release in the middle of its stream: put that back on the list.
  for (const auto& [id, stream] : device.streams) {
    demand(*stream, stream->enqueued);
    schedule(stream);
  }
  run_inline(lock);
  const auto any_running = [&] {
    return std::any_of(device.streams.begin(), device.streams.end(),
                       [](const auto& entry) { return entry.second->running; });
  };
  while (!device.ready.empty() || any_running()) {
    if (device.ready.empty()) {
      all.changed.wait(lock);
    } else {
      run_ready(lock, device.ready);
    }
  }
  device.stop = true;
  device.work.notify_all();
  auto workers = std::move(device.workers);
  lock.unlock();
  for (auto& thread : workers) {
    if (thread.get_id() == std::this_thread::get_id()) {
      thread.detach();
    } else {
      thread.join();
    }
  }
  lock.lock();
  drop_queues(device, garbage);
  for (auto& [id, stream] : device.streams) {
    stream->device = nullptr;
    garbage.push_back(std::move(stream));
  }
  device.streams.clear();
  std::erase_if(all.devices, [&](const auto& other) { return other.get() == &device; });
  forget_ranges(device);
  all.changed.notify_all();  // who unpins on another device may wait for what this one had left
  lock.unlock();
}

}  // namespace thole::inline v0_1::detail::simulated
