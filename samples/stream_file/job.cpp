#include "job.hpp"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace stream_file {
namespace {

/// The lanes' threads. The first failure is kept.
class Lanes {
 public:
  Lanes(Job& job, const std::vector<thole::Stream>& streams) : job_(job), left_(streams.size()) {
    threads_.reserve(streams.size());
    for (std::size_t lane = 0; lane < streams.size(); ++lane)
      threads_.emplace_back([this, lane, &stream = streams[lane]] { run(lane, stream); });
  }
  Lanes(const Lanes&) = delete;
  Lanes& operator=(const Lanes&) = delete;
  ~Lanes() { join(); }

  Result wait(const std::function<void()>& tick) {
    std::unique_lock lock(mutex_);
    while (!done_.wait_for(lock, std::chrono::milliseconds(100), [this] { return left_ == 0; })) {
      lock.unlock();
      tick();
      lock.lock();
    }
    lock.unlock();
    join();
    if (failure_) std::rethrow_exception(failure_);
    return std::move(result_);
  }

 private:
  void run(std::size_t lane, const thole::Stream& stream) noexcept {
    Result found;
    std::exception_ptr failure;
    try {
      if (thole::tracing()) {
        thole::name_traced_thread("reader " + std::to_string(lane));
        thole::name_traced_stream(stream.native(), "stream of reader " + std::to_string(lane));
      }
      found = job_.plan.mode == Mode::load ? load_lane(job_, lane, stream) : round_trip_lane(job_, lane, stream);
    } catch (...) {
      failure = std::current_exception();
    }
    if (failure) {
      job_.feed.stop();
      if (job_.output != nullptr) job_.output->give_up();
      // The device memory that it writes to goes when the job does.
      (void)stream.synchronize_for(std::chrono::hours(1));
    }
    const std::lock_guard lock(mutex_);
    result_.add(found);
    if (failure && !failure_) failure_ = failure;
    if (--left_ == 0) done_.notify_one();
  }
  void join() {
    for (auto& thread : threads_)
      if (thread.joinable()) thread.join();
  }

  Job& job_;
  std::mutex mutex_;
  std::condition_variable done_;
  std::size_t left_;
  Result result_;
  std::exception_ptr failure_;
  std::vector<std::thread> threads_;
};

}  // namespace

void Result::add(const Result& lane) {
  bytes += lane.bytes;
  pieces += lane.pieces;
  copies += lane.copies;
  on_cpu.add(lane.on_cpu);
  back.add(lane.back);
}

Result run(Job& job, const std::function<void()>& tick) {
  job.device.start_checks(job.plan.check);
  std::vector<thole::Stream> streams;
  for (std::size_t lane = 0; lane < job.plan.threads; ++lane) streams.emplace_back(job.heap.arena().device());

  const auto start = std::chrono::steady_clock::now();
  if (job.log != nullptr) job.log->start();
  Result result = Lanes(job, streams).wait(tick);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  result.on_device = job.device.findings();
  if (DeviceSide::can_check(job.heap.arena().device())) verify(result.on_cpu, result.on_device, job.plan.check);
  return result;
}

thole::PinnedBuffer<unsigned char> take_buffer(Job& job, std::size_t lane) {
  const Timed timed(job.log, lane, Doing::wait);
  auto made = job.heap.try_make_buffer_for<unsigned char>(job.plan.chunk, std::chrono::minutes(1));
  if (!made) throw made.error();
  return std::move(*made);
}

void note_copy(Job& job, std::size_t lane, const thole::StreamRef& stream, Doing doing, std::uint64_t bytes) {
  if (job.log == nullptr && !thole::tracing()) return;
  Span* const span = job.log == nullptr ? nullptr : &job.log->begin(lane, doing, bytes);
  // Where the copy is done the stream says so. It began when it was handed over, or when the one before it was done.
  struct Clock {
    std::chrono::steady_clock::time_point free;
  };
  thread_local const auto clock = std::make_shared<Clock>();
  stream.launch_host_function([span, doing, bytes, log = job.log, native = stream.native(), clock = clock,
                               begin = std::chrono::steady_clock::now()] {
    const auto end = std::chrono::steady_clock::now();
    if (span != nullptr) span->end = log->now();
    thole::trace_in_stream(native, name_of(doing), std::max(begin, clock->free), end, bytes);
    clock->free = end;
  });
}

}  // namespace stream_file
