// Several buffers as one use, and several parts of one buffer, with work in flight: lists that many threads run at the
// same time, and parts of one allocation that many threads split, join, use and drop.

#include <algorithm>
#include <iterator>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include <thole/thole.hpp>

#include "worker.hpp"

namespace model {

using namespace thole;

/// What a list names may be dropped before it runs; each run comes after the one before, whatever the stream.
void Worker::list() {
  struct Entry {
    Parcel parcel;
    Word* data;
    std::size_t count;
    bool writes;
  };
  std::vector<Entry> entries;
  UseList uses;
  for (std::size_t left = 1 + below(5); left != 0; --left) {
    Parcel parcel = make(1 + below(200));
    Word* const data = parcel.buffer->unsynchronized_data();
    const std::size_t count = parcel.buffer->size();
    const bool writes = below(2) == 0;
    if (below(4) == 0) (void)parcel.buffer->async_to_device(stream());
    if (writes)
      uses.writes(*parcel.buffer);
    else
      uses.reads(*parcel.buffer);
    if (below(3) == 0) parcel.buffer.reset();
    entries.push_back({std::move(parcel), data, count, writes});
  }
  for (std::size_t left = 1 + below(3); left != 0; --left) {
    const auto run = [&](NativeStream native) {
      for (Entry& each : entries) {
        if (each.parcel.buffer && each.parcel.buffer->try_borrow().has_value() == each.writes)
          broken("in the function of a list a borrow is not as its use says");
        if (each.writes)
          write_later(native, each.data, each.count, each.parcel.pattern = ++patterns_);
        else
          look_later(native, each.data, each.count, each.parcel.pattern);
      }
    };
    if (below(2) == 0)
      uses.run_on(stream(), run);
    else
      unwrap(uses.try_run_on(stream(), run));
  }
  if (below(2) == 0) uses.clear();
  for (Entry& each : entries)
    if (each.parcel.buffer) keep(std::move(each.parcel));
}

/// A list that several threads run, each in its own stream. It keeps what nobody else does.
void Worker::shared_list() {
  CommonList common;
  auto& place = shared_.lists[below(shared_.lists.size())];
  {
    const std::scoped_lock lock(shared_.mutex);
    common = place;
  }
  if (common.list != nullptr && below(8) != 0) {
    common.list->run_on(stream(), [&](NativeStream native) {
      for (const auto& each : *common.entries) look_later(native, each.data, each.count, each.pattern);
    });
    return;
  }
  auto list = std::make_shared<UseList>();
  auto entries = std::make_shared<std::vector<CommonList::Entry>>();
  for (std::size_t left = 1 + below(4); left != 0; --left) {
    const Parcel parcel = make(1 + below(200));
    list->reads(*parcel.buffer);
    if (below(4) == 0) list->reads(*parcel.buffer);  // twice is as good as once
    entries->push_back({parcel.buffer->unsynchronized_data(), parcel.buffer->size(), parcel.pattern});
  }
  common = {std::move(list), std::move(entries)};
  const std::scoped_lock lock(shared_.mutex);
  std::swap(place, common);
}

void Worker::use_part(Piece& piece) {
  Parcel& part = piece.parcel;
  Buffer& buffer = *part.buffer;
  switch (below(5)) {
    case 0:
      return check(part);
    case 1:
      return rewrite(part);
    case 2:
      return static_cast<void>(buffer.async_to_device(stream()));
    case 3:
      return buffer.use_on(stream(), Access::device_writes, [&](Word* at, NativeStream native) {
        part.first = 0;
        write_later(native, at, buffer.size(), part.pattern = ++patterns_);
      });
    default:
      return buffer.use_on(stream(), Access::device_reads, [&](const Word* at, NativeStream native) {
        look_later(native, at, buffer.size(), part.pattern, part.first);
      });
  }
}

/// Nobody else has it: that must work, whatever is in flight.
std::vector<Piece> Worker::split(Piece piece, const std::vector<std::size_t>& sizes) {
  auto buffers = std::move(*piece.parcel.buffer).split(sizes);
  std::vector<Piece> parts;
  std::size_t at = 0;
  for (std::size_t i = 0; i != sizes.size(); at += sizes[i], ++i)
    if (sizes[i] != 0)
      parts.push_back({{own(std::move(buffers[i])), {}, piece.parcel.pattern, piece.parcel.first + at},
                       piece.whole,
                       piece.offset + at});
  return parts;
}

/// Those that are neighbours are one again; others cannot be.
bool Worker::join(Piece& one, Piece& other) {
  Parcel &left = one.parcel, &right = other.parcel;
  const std::size_t size = left.buffer->size();
  const bool neighbours = one.whole == other.whole && one.offset + size == other.offset;
  const bool borrowed = below(8) == 0;
  std::vector<thole::Borrow<Word>> borrows;
  if (borrowed) borrows.push_back(right.buffer->borrow());
  std::vector<Buffer> parts;
  parts.push_back(std::move(*left.buffer));
  parts.push_back(std::move(*right.buffer));
  auto joined = try_join(std::move(parts));
  if (joined.has_value() != (neighbours && !borrowed)) broken("parts are joined that cannot be, or not that can be");
  if (!joined) {
    const Errc code = joined.error().errc();
    if (code != Errc::borrowed && code != Errc::invalid_argument) throw joined.error();
    *left.buffer = std::move(parts[0]);
    *right.buffer = std::move(parts[1]);
    return false;
  }
  const bool together = left.pattern == right.pattern && left.first + size == right.first;
  left.buffer = own(std::move(*joined));
  right.buffer.reset();
  if (!together) rewrite(left);  // it waits for what uses either
  return true;
}

/// All parts go while a stream that stands still uses one of them, or all: nobody gets that memory.
void Worker::drop_parts() {
  const PinnedHeap& from = heap();
  Piece whole{make(16 + below(400), from), 0, 0};
  const std::size_t size = whole.parcel.buffer->size();
  const Word* const data = whole.parcel.buffer->unsynchronized_data();
  const Stream& there = own_stream();
  std::vector<Parcel> made;  // kept when the stream goes on: keeping may wait for it
  std::optional<StandingStill> still(std::in_place, shared_, there);
  const auto look = [&](const Parcel& parcel) {
    parcel.buffer->use_on(there, Access::device_reads, [&](const Word* at, NativeStream native) {
      look_later(native, at, parcel.buffer->size(), parcel.pattern, parcel.first);
    });
  };
  const bool before = below(2) == 0;
  if (before) look(whole.parcel);
  const std::size_t one = 1 + below(size / 2), other = below(size - one);
  auto parts = split(std::move(whole), {one, other, size - one - other});
  if (!before) look(parts[below(parts.size())].parcel);
  if (below(4) == 0 && join(parts[0], parts[1])) parts.erase(parts.begin() + 1);
  std::ranges::shuffle(parts, random_);
  parts.clear();
  for (std::size_t left = 1 + below(4); left != 0; --left) {
    if (below(4) == 0) (void)from.collect();
    Parcel next = make(1 + below(size), from);
    const Word* const begin = next.buffer->unsynchronized_data();
    if (begin < data + size && data < begin + next.buffer->size()) broken("memory in flight was given away");
    made.push_back(std::move(next));
  }
  still.reset();
  for (Parcel& each : made) keep(std::move(each));
}

/// Parts of one allocation in the hands of several threads.
void Worker::shared_parts() {
  std::vector<Piece> mine;
  std::size_t others = 0;
  {
    const std::scoped_lock lock(shared_.mutex);
    auto& all = shared_.pieces;
    for (std::size_t left = 1 + below(3); left != 0 && !all.empty(); --left) {
      std::swap(all[below(all.size())], all.back());
      mine.push_back(std::move(all.back()));
      all.pop_back();
    }
    others = all.size();
  }
  if (mine.empty() || (others < 12 && below(6) == 0)) mine.push_back({make(2 + below(400)), ++patterns_, 0});
  for (Piece& each : mine) use_part(each);
  for (std::size_t left = 1 + below(3); left != 0; --left) {
    std::ranges::shuffle(mine, random_);
    if (below(2) == 0 && mine.size() > 1) {
      if (join(mine[0], mine[1])) mine.erase(mine.begin() + 1);
    } else if (mine.size() + others < 16) {
      Piece whole = std::move(mine.back());
      mine.pop_back();
      const std::size_t size = whole.parcel.buffer->size();
      const std::size_t one = below(size + 1), other = below(size - one + 1);
      std::ranges::move(split(std::move(whole), {one, other, size - one - other}), std::back_inserter(mine));
    }
    use_part(mine[below(mine.size())]);
  }
  if (below(4) == 0) mine.pop_back();  // dropped, perhaps in flight
  if (below(4) == 0 && !mine.empty()) {
    keep(std::move(mine.back().parcel));
    mine.pop_back();
  }
  const std::scoped_lock lock(shared_.mutex);
  std::ranges::move(mine, std::back_inserter(shared_.pieces));
}

}  // namespace model
