#include "streams/notifier.hpp"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <list>
#include <map>
#include <mutex>
#include <utility>

#include "base/background_thread.hpp"
#include "base/immortal.hpp"
#include "base/process_exit.hpp"

namespace thole::inline v0_1::detail {
namespace {

/// Holds a ticket.
class Held {
 public:
  Held(std::shared_ptr<Timeline> timeline, Ticket* ticket) noexcept
      : timeline_(std::move(timeline)), ticket_(ticket), serial_(timeline_->retain(ticket)) {}
  Held(Held&& other) noexcept
      : timeline_(std::move(other.timeline_)), ticket_(std::exchange(other.ticket_, nullptr)), serial_(other.serial_) {}
  Held& operator=(Held&&) = delete;
  ~Held() {
    if (ticket_ != nullptr) timeline_->release(ticket_);
  }
  const std::shared_ptr<Timeline>& timeline() const noexcept { return timeline_; }
  std::uint64_t serial() const noexcept { return serial_; }
  Status query() const noexcept { return timeline_->query(ticket_); }

 private:
  std::shared_ptr<Timeline> timeline_;
  Ticket* ticket_;
  std::uint64_t serial_;
};

struct Wanted {
  Held event;
  std::function<void(Status)> done;
};

/// Those of one stream, in the order of their events: where one is not done, no later one is.
using InOrder = std::multimap<std::uint64_t, Wanted>;
using Streams = std::map<Timeline*, InOrder>;  // each entry keeps its stream

class Notifier {
 public:
  void add(Wanted wanted) {
    // All that the thread keeps of it, so that the thread itself needs no memory.
    std::list<Streams> one(1);
    const auto serial = wanted.event.serial();
    one.front()[wanted.event.timeline().get()].emplace(serial, std::move(wanted));
    const std::scoped_lock lock(mutex_);
    if (!started_) {
      background_thread([this] { run(); }).detach();
      started_ = true;
    }
    new_.splice(new_.end(), one);
    changed_.notify_one();
  }

 private:
  static constexpr auto shortest_pause = std::chrono::microseconds(20);
  static constexpr auto longest_pause = std::chrono::microseconds(1000);

  void run() noexcept {
    std::chrono::microseconds pause = shortest_pause;
    for (;;) {
      {
        std::unique_lock lock(mutex_);
        const auto has_news = [this] { return !new_.empty(); };
        if (streams_.empty())
          changed_.wait(lock, has_news);
        else
          changed_.wait_for(lock, pause, has_news);
        if (!new_.empty()) pause = shortest_pause;
        sort_in();
      }
      const BackgroundCalls calls;  // while it asks, not while it sleeps: the end of the process waits for it
      if (!calls) return;
      pause = ask() ? shortest_pause : std::min(pause * 2, longest_pause);
    }
  }

  /// By moving nodes, which allocates nothing.
  void sort_in() noexcept {
    for (Streams& one : new_) {
      const auto known = streams_.find(one.begin()->first);
      if (known == streams_.end())
        streams_.merge(one);
      else
        known->second.merge(one.begin()->second);
    }
    new_.clear();
  }

  /// Calls back for all that is done; whether anything was.
  bool ask() noexcept {
    bool any = false;
    for (auto stream = streams_.begin(); stream != streams_.end();) {
      InOrder& in_order = stream->second;
      while (!in_order.empty()) {
        const Status status = in_order.begin()->second.event.query();
        if (status.code == StatusCode::not_ready) break;
        if (process_is_ending()) return any;  // refused, whatever the status: what is not done is not told
        any = true;
        const auto next = in_order.extract(in_order.begin());
        next.mapped().done(status);
      }
      stream = in_order.empty() ? streams_.erase(stream) : std::next(stream);
    }
    return any;
  }

  std::mutex mutex_;  // new_ and started_
  std::condition_variable changed_;
  std::list<Streams> new_;  // of one entry each
  bool started_ = false;
  Streams streams_;  // the thread's own
};

}  // namespace

void notify(const std::shared_ptr<Timeline>& timeline, Ticket* ticket, std::function<void(Status)> done) {
  immortal<Notifier>().add({Held(timeline, ticket), std::move(done)});
}

}  // namespace thole::inline v0_1::detail
