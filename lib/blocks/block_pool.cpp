#include "blocks/block_pool.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <new>
#include <shared_mutex>
#include <utility>

#include "base/bytes.hpp"
#include "base/immortal.hpp"
#include "base/limits.hpp"
#include "base/pages.hpp"

namespace thole::inline v0_1::detail {
namespace {

constexpr std::size_t slab_bytes = std::size_t{256} << 10;
constexpr std::size_t head_bytes = 64;
constexpr std::size_t idle_slabs = 32;  // so many more than are in use stay as they are

/// What the limits allow. Under its lock.
class Allowance {
 public:
  bool take(std::size_t bytes) noexcept {
    if (left_ < bytes && !ask()) return false;
    left_ -= bytes;
    return true;
  }
  void give_back(std::size_t bytes) noexcept { left_ += bytes; }
  const std::string& refusal() const noexcept { return refusal_; }

 private:
  /// Reading the limits takes a tenth of a millisecond: a refusal is good for a millisecond.
  bool ask() noexcept try {
    using Clock = std::chrono::steady_clock;
    constexpr std::size_t least = std::size_t{1} << 20, most = std::size_t{16} << 20;
    constexpr std::size_t spare = 2 * least;  // for what the program makes beside its buffers until the next look
    static_assert(spare < spare_memory, "else an arena that takes all that may be pinned has no records");
    const auto now = Clock::now();
    if (!refusal_.empty() && now - asked_ < std::chrono::milliseconds(1)) return false;
    asked_ = now;
    MemoryRoom room = unreserved_memory();
    const bool enough = room.bytes >= spare;
    refusal_ = enough ? std::string() : std::move(room.limit);
    left_ = enough ? std::clamp(room.bytes / 16, least, most) : 0;
    return enough;
  } catch (const std::bad_alloc&) {
    return false;
  }

  std::size_t left_ = 0;  // bytes
  std::chrono::steady_clock::time_point asked_;
  std::string refusal_;  // of the last answer; empty where it was none
};

struct Memory {
  std::mutex mutex;  // of the allowance; taken last of all
  Allowance allowance;
  std::atomic<std::size_t> bytes{0};  // touched; relaxed: a figure
};
Memory& memory() noexcept { return immortal<Memory>(); }

bool may_touch(std::size_t bytes, bool at_any_cost) noexcept {
  const std::scoped_lock lock(memory().mutex);
  if (!memory().allowance.take(bytes) && !at_any_cost) return false;
  memory().bytes.fetch_add(bytes, std::memory_order_relaxed);
  return true;
}

/// Undoes may_touch().
void not_touched(std::size_t bytes, bool at_any_cost) noexcept {
  const std::scoped_lock lock(memory().mutex);
  if (!at_any_cost) memory().allowance.give_back(bytes);  // else it may have given none
  memory().bytes.fetch_sub(bytes, std::memory_order_relaxed);
}

/// A slab's head; the records follow.
template <class T>
struct Slab {
  static constexpr std::size_t most = (slab_bytes - head_bytes) / sizeof(T);

  Slab* following = nullptr;           // of all slabs; set once
  std::atomic<std::uint32_t> made{0};  // records that there are, from the first on; written under the pool's lock
  std::uint32_t out = 0;               // records that somebody has
  T* free = nullptr;                   // those that nobody has, linked by `next`
  std::size_t touched = page;          // bytes
  Slab* before = nullptr;              // in one of the pool's lists
  Slab* after = nullptr;

  T& record(std::size_t index) noexcept {
    return reinterpret_cast<T*>(reinterpret_cast<std::byte*>(this) + head_bytes)[index];
  }
  static Slab& of(T* record) noexcept {
    return *reinterpret_cast<Slab*>(reinterpret_cast<std::uintptr_t>(record) / slab_bytes * slab_bytes);
  }
};

/// Slabs of one state.
template <class T>
class SlabList {
 public:
  Slab<T>* first() const noexcept { return first_; }
  std::size_t length() const noexcept { return length_; }
  void push(Slab<T>& slab) noexcept {
    slab.before = nullptr;
    slab.after = first_;
    if (first_ != nullptr) first_->before = &slab;
    first_ = &slab;
    ++length_;
  }
  void remove(const Slab<T>& slab) noexcept {
    (slab.before != nullptr ? slab.before->after : first_) = slab.after;
    if (slab.after != nullptr) slab.after->before = slab.before;
    --length_;
  }

 private:
  Slab<T>* first_ = nullptr;
  std::size_t length_ = 0;
};

template <class T>
class Pool {
  static_assert(sizeof(Slab<T>) <= head_bytes);

 public:
  T* take(bool at_any_cost = false) noexcept {
    const std::scoped_lock lock(mutex_);
    do {
      for (SlabList<T>* const list : {&open_, &idle_, &blank_})
        for (Slab<T>* slab = list->first(); slab != nullptr; slab = slab->after)
          if (T* const record = take_from(*slab, *list, at_any_cost); record != nullptr) return record;
    } while (add_slab(at_any_cost));
    return nullptr;
  }

  void give(T* record) noexcept {
    Slab<T>& slab = Slab<T>::of(record);
    const std::scoped_lock lock(mutex_);
    record->next = slab.free;
    slab.free = record;
    if (slab.out-- == Slab<T>::most) {
      --full_;
      open_.push(slab);
    }
    if (slab.out != 0) return;
    open_.remove(slab);
    idle_.push(slab);
    // One has become idle and one less is in use, so two each time are enough.
    for (int i = 0; i != 2 && idle_.length() > full_ + open_.length() + idle_slabs; ++i) give_back(*idle_.first());
  }

  void trim() noexcept {
    const std::scoped_lock lock(mutex_);
    for (Slab<T>* slab = idle_.first(); slab != nullptr;) {
      Slab<T>& idle = *slab;
      slab = slab->after;
      give_back(idle);
    }
  }

  std::shared_lock<std::shared_mutex> keep() noexcept { return std::shared_lock(visiting_); }

  template <class F>
  void visit(F&& f) {
    const auto kept = keep();
    for (Slab<T>* slab = all_.load(std::memory_order_acquire); slab != nullptr; slab = slab->following)
      for (std::size_t i = 0, made = slab->made.load(std::memory_order_acquire); i != made; ++i) f(slab->record(i));
  }

 private:
  // All of these under the lock.

  T* take_from(Slab<T>& slab, SlabList<T>& list, bool at_any_cost) noexcept {
    T* const record = slab.free != nullptr ? slab.free : make(slab, at_any_cost);
    if (record == nullptr) return nullptr;  // no memory for more; another slab may have some
    if (record == slab.free) slab.free = record->next;
    if (++slab.out == 1) {
      list.remove(slab);
      open_.push(slab);
    } else if (slab.out == Slab<T>::most) {
      open_.remove(slab);
      ++full_;
    }
    return record;
  }

  T* make(Slab<T>& slab, bool at_any_cost) noexcept {
    const std::uint32_t made = slab.made.load(std::memory_order_relaxed);
    if (made == Slab<T>::most) return nullptr;
    const std::size_t end = whole_pages(head_bytes + (made + 1) * sizeof(T));
    if (end != slab.touched && !may_touch(end - slab.touched, at_any_cost)) return nullptr;
    slab.touched = end;
    T* const record = new (&slab.record(made)) T;
    slab.made.store(made + 1, std::memory_order_release);  // pairs with visit()
    return record;
  }

  bool add_slab(bool at_any_cost) noexcept {
    if (!may_touch(page, at_any_cost)) return false;
    void* const place = ::operator new (slab_bytes, std::align_val_t{slab_bytes}, std::nothrow);
    if (place == nullptr) {
      not_touched(page, at_any_cost);
      return false;
    }
    auto* const slab = new (place) Slab<T>;
    slab->following = all_.load(std::memory_order_relaxed);
    all_.store(slab, std::memory_order_release);
    blank_.push(*slab);
    return true;
  }

  /// The pages of an idle slab, but for the first.
  void give_back(Slab<T>& slab) noexcept {
    const std::unique_lock lock(visiting_, std::try_to_lock);  // who visits records locks some of them
    if (!lock.owns_lock()) return;
    if (!give_pages_back(reinterpret_cast<std::byte*>(&slab) + page, slab_bytes - page)) return;
    slab.made.store(0, std::memory_order_relaxed);
    slab.free = nullptr;
    memory().bytes.fetch_sub(std::exchange(slab.touched, page) - page, std::memory_order_relaxed);
    idle_.remove(slab);
    blank_.push(slab);
  }

  std::mutex mutex_;            // of what follows, but for all_
  SlabList<T> open_;            // some records are out, and some not
  SlabList<T> idle_;            // none is out
  SlabList<T> blank_;           // none has been made since the pages went back, or ever
  std::size_t full_ = 0;        // slabs of which all are out
  std::shared_mutex visiting_;  // for give_back(), alone
  std::atomic<Slab<T>*> all_{nullptr};
};

Pool<Block>& blocks() noexcept { return immortal<Pool<Block>>(); }
Pool<Use>& slots() noexcept { return immortal<Pool<Use>>(); }

}  // namespace

Block* acquire_block() noexcept { return blocks().take(); }

void release_block(Block* block) noexcept {
  Use* slot = nullptr;
  {
    const SpinGuard guard(block->uses.slots);  // a report may look at them
    slot = block->uses.slots.get();
    block->uses.slots.set(nullptr);
  }
  while (slot != nullptr) release_slot(std::exchange(slot, slot->next));
  blocks().give(block);
}

Use* acquire_slot(bool at_any_cost) noexcept {
  Use* const slot = slots().take(at_any_cost);
  if (slot != nullptr) slot->next = nullptr;
  return slot;
}

void release_slot(Use* slot) noexcept { slots().give(slot); }

std::string records_refused() noexcept {
  if (Block* const block = acquire_block()) {
    release_block(block);
    return {};
  }
  const std::scoped_lock lock(memory().mutex);
  try {
    return memory().allowance.refusal();
  } catch (const std::bad_alloc&) {
    return {};
  }
}

void trim_records() noexcept {
  blocks().trim();
  slots().trim();
}

std::size_t record_bytes() noexcept { return memory().bytes.load(std::memory_order_relaxed); }

void ask_limits_again() noexcept {
  const std::scoped_lock lock(memory().mutex);
  memory().allowance = {};
}

bool may_keep_records(std::size_t bytes) noexcept { return may_touch(bytes, false); }
void no_more_records(std::size_t bytes) noexcept { memory().bytes.fetch_sub(bytes, std::memory_order_relaxed); }
std::shared_lock<std::shared_mutex> keep_records() noexcept { return blocks().keep(); }

void visit_records(void (*f)(void* context, Block& block), void* context) {
  blocks().visit([&](Block& block) { f(context, block); });
}

}  // namespace thole::inline v0_1::detail
