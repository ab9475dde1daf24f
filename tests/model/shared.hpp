#pragma once

// What the threads of threads.cpp pass to each other, and how payloads are told apart.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <utility>
#include <vector>

#include <thole/thole.hpp>

#include "model.hpp"

namespace model {

inline Word word(std::uint64_t pattern, std::size_t i) { return static_cast<Word>(pattern * 0x9e3779b1u + i); }

inline void write(Word* data, std::size_t count, std::uint64_t pattern) {
  for (std::size_t i = 0; i != count; ++i) data[i] = word(pattern, i);
}

/// `first`: of the pattern's words, where `data` starts.
inline bool holds(const Word* data, std::size_t count, std::uint64_t pattern, std::size_t first = 0) {
  for (std::size_t i = 0; i != count; ++i)
    if (data[i] != word(pattern, first + i)) return false;
  return true;
}

/// A buffer, perhaps with a borrow of it, and what it holds.
struct Parcel {
  std::unique_ptr<thole::PinnedBuffer<Word>> buffer;
  std::unique_ptr<thole::Borrow<Word>> borrow;
  std::uint64_t pattern = 0;
  std::size_t first = 0;  // of the pattern's words: a part may start in the middle
};

/// A buffer that several threads borrow and copy at the same time.
struct Common {
  std::shared_ptr<const thole::PinnedBuffer<Word>> buffer;
  std::uint64_t pattern = 0;
};

/// A list of uses that several threads run at the same time; nobody else keeps what it names.
struct CommonList {
  struct Entry {
    const Word* data;
    std::size_t count;
    std::uint64_t pattern;
  };
  std::shared_ptr<const thole::UseList> list;
  std::shared_ptr<const std::vector<Entry>> entries;
};

/// A part of an allocation that others may have parts of.
struct Piece {
  Parcel parcel;
  std::uint64_t whole = 0;  // the number of the allocation
  std::size_t offset = 0;   // words
};

struct Shared {
  Shared(thole::Device on, const thole::ArenaOptions& options)
      : device(std::move(on)), arena(device, options), heap(arena), other_heap(arena, {.background_reclaim = true}) {}

  thole::Device device;
  thole::PinnedArena arena;
  thole::PinnedHeap heap;
  thole::PinnedHeap other_heap;
  // Captures, or memory that goes back behind everything: that disturbs a capture which begins just then.
  bool captures = true;
  std::mutex mutex;
  std::vector<Parcel> parcels;
  std::array<Common, 4> common;
  std::array<CommonList, 3> lists;
  std::vector<Piece> pieces;
  std::vector<thole::StreamRef> views;  // each of one thread's own default stream
  std::vector<std::string> wrong;
  // Unpinning waits for all work there is, also in a stream that stands still, and holds up whoever could let it go on.
  std::shared_mutex unpinning;
  std::atomic<bool> stop{false};

  void fail(std::string text) {
    stop = true;
    const std::scoped_lock lock(mutex);
    wrong.push_back(std::move(text));
  }
  void send(Parcel parcel) {
    const std::scoped_lock lock(mutex);
    parcels.push_back(std::move(parcel));
  }
  std::optional<Parcel> receive() {
    const std::scoped_lock lock(mutex);
    if (parcels.empty()) return {};
    std::optional<Parcel> parcel = std::move(parcels.front());
    std::swap(parcels.front(), parcels.back());
    parcels.pop_back();
    return parcel;
  }
};

}  // namespace model
