#include "heap/caretaker.hpp"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <vector>

#include "base/background_thread.hpp"
#include "base/immortal.hpp"
#include "base/process_exit.hpp"
#include "heap/arena_core.hpp"

namespace thole::inline v0_1::detail {
namespace {

using Clock = std::chrono::steady_clock;

class Caretaker {
 public:
  bool add(const std::shared_ptr<ArenaCore>& arena) {
    const std::scoped_lock lock(mutex_);
    jobs_.push_back({arena, Clock::time_point::min()});
    if (!started_) try {
        background_thread([this] { run(); }).detach();
        started_ = true;
      } catch (const std::system_error&) {
        jobs_.pop_back();
        return false;
      }
    news_ = true;
    changed_.notify_one();
    return true;
  }

 private:
  struct Job {
    std::weak_ptr<ArenaCore> arena;
    Clock::time_point when;
  };

  /// Under the mutex. The job that is due first.
  Job* next_job() noexcept {
    std::erase_if(jobs_, [](const Job& job) { return job.when == Clock::time_point::max() || job.arena.expired(); });
    const auto first = std::ranges::min_element(jobs_, {}, &Job::when);
    return first == jobs_.end() ? nullptr : &*first;
  }

  void run() noexcept {
    std::unique_lock lock(mutex_);
    for (;;) {
      news_ = false;
      Job* const job = next_job();
      if (job == nullptr) {
        changed_.wait(lock, [this] { return news_; });
        continue;
      }
      if (const auto when = job->when; when > Clock::now()) {  // of its own: the jobs move when another comes
        changed_.wait_until(lock, when, [this] { return news_; });
        continue;
      }
      auto arena = job->arena.lock();
      if (arena == nullptr) continue;
      lock.unlock();
      Clock::time_point when;
      {
        const BackgroundCalls calls;  // the end of the process waits for it
        if (!calls) stand_still();    // and keeps the arena, whose end may be a call
        when = care_for(arena, Clock::now());
        lock.lock();
        for (Job& known : jobs_)
          if (!known.arena.owner_before(arena) && !arena.owner_before(known.arena)) known.when = when;
        lock.unlock();
        arena.reset();  // perhaps the last to hold it
      }
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Job> jobs_;
  bool news_ = false;
  bool started_ = false;
};

/// Drivers hold a lock while they register memory, and their lock is not fair: a thread that registers one piece after
/// the other keeps all others out. A piece is followed by a pause as long as half of what it took.
Clock::time_point pin_a_piece(ArenaCore& arena, Clock::time_point now) noexcept {
  const auto began = Clock::now();
  if (!arena.is_held() || !arena.store().pin_more()) return Clock::time_point::max();
  const auto took = Clock::now() - began;
  return now + took + std::max<Clock::duration>(took / 2, std::chrono::milliseconds(1));
}

/// Unpinning waits for all running work of the process, and nearly every call of it waits meanwhile. So it is put off
/// while the device has something to do, but not for ever.
Clock::time_point trim_what_is_old(ArenaCore& arena, Clock::time_point now) noexcept {
  const auto age = arena.upkeep.trim_after;
  arena.trim_idle(now, arena.is_busy() ? 3 * age : age);
  return now + std::max<Clock::duration>(age / 4, std::chrono::milliseconds(1));
}

}  // namespace

Clock::time_point care_for(const std::shared_ptr<ArenaCore>& arena, Clock::time_point now) noexcept {
  ArenaCore::Upkeep& upkeep = arena->upkeep;
  if (upkeep.next_piece <= now) upkeep.next_piece = pin_a_piece(*arena, now);
  if (upkeep.next_look <= now) upkeep.next_look = trim_what_is_old(*arena, now);
  return std::min(upkeep.next_piece, upkeep.next_look);
}

bool take_care_of(const std::shared_ptr<ArenaCore>& arena) { return immortal<Caretaker>().add(arena); }

}  // namespace thole::inline v0_1::detail
