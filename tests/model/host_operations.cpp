// Making, borrowing, moving and dropping buffers.

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include <thole/detail/listed_use.hpp>

#include "blocks/block.hpp"
#include "program.hpp"
#include "streams/timeline.hpp"
#include "streams/uses.hpp"

namespace model {
namespace {

struct alignas(256) Wide {
  std::array<std::byte, 256> bytes;
};

template <class F>
void for_each_open(const Buffer& buffer, F&& f) {
  namespace detail = thole::detail;
  const auto* const block = static_cast<const detail::Block*>(detail::ListAccess::pinned<const Word>(buffer).use.block);
  detail::for_each_open(block->uses, detail::Against::everything, [&](const detail::OpenUse& use) {
    f(*use.timeline, use.position);
    return true;
  });
}

/// What the library knows of them, for who looks for a fault.
std::string open_uses(const Buffer& buffer) {
  std::string text;
  for_each_open(buffer, [&](thole::detail::Timeline& stream, std::uint64_t position) {
    text += fmt::format(" [{} {}: position {} of {}, done: {}]", stream.foreign() ? "foreign stream" : "stream",
                        stream.id(), position, stream.issued(), stream.done(position));
  });
  return text;
}

/// A capture took the event of a use, and the stream captures again: until that ends there can be no other event.
bool captures_without_event(const Buffer& buffer) {
  bool found = false;
  for_each_open(buffer, [&](thole::detail::Timeline& stream, std::uint64_t position) {
    found = found || stream.query(position).code == thole::detail::StatusCode::capture;
  });
  return found;
}

}  // namespace

MemoryPtr Program::adopt(const Heap& heap, const Buffer& buffer, std::size_t count, bool filled) {
  const auto address = reinterpret_cast<std::uintptr_t>(buffer.unsynchronized_data());
  if (buffer.size() != count) broken("a buffer has another size than it was asked for");
  if (buffer.empty() != (count == 0)) broken("empty() is wrong");
  if (count != 0) {
    if (address % heap.alignment != 0)
      broken(fmt::format("a buffer at {:#x}, not aligned to {}", address, heap.alignment));
    const auto arena = heap.heap.arena();
    const auto* const first = reinterpret_cast<const std::byte*>(buffer.unsynchronized_data());
    if (!arena.contains(first) || !arena.contains(first + buffer.size_bytes() - 1))
      broken("a buffer lies outside of its arena");
  }
  ledger_.look(filled ? buffer.unsynchronized_data() : nullptr, buffer.size_bytes());
  auto memory = ledger_.made(buffer.unsynchronized_data(), count, heap.arena);
  memory->heap = heap.number;
  return memory;
}

void Program::own(Heap& heap, Buffer buffer, bool filled, const Content& content, unsigned tag) {
  auto memory = adopt(heap, buffer, content.size(), filled);
  memory->tag = tag;
  memory->content = content;
  if (!filled) {
    const auto borrow = buffer.borrow_mut();
    std::ranges::copy(content, borrow.begin());
  }
  const auto wrong = difference(buffer.unsynchronized_data(), content.data(), content.size());
  if (!wrong.empty()) broken("a new buffer: " + wrong);
  buffers_.push_back({std::move(buffer), std::move(memory)});
}

void Program::make() {
  Heap* const heap = pick(heaps_);
  if (heap == nullptr) return make_heap();
  if (buffers_.size() > 40) return drop();
  if (chance(12)) return make_other_type(*heap);
  make_variant(*heap);
}

void Program::make_variant(Heap& heap) {
  std::size_t count = some_count();
  const std::size_t kind = below(16);
  if (kind == 15) {  // more than there can be
    count = chance(2) ? heap.most / sizeof(Word) + 1024 + below(1000000)
                      : std::numeric_limits<std::size_t>::max() - below(1000);
    say(fmt::format("make {} (too large)", count));
    const auto made = heap.heap.try_make_buffer<Word>(count);
    judge(made ? std::nullopt : std::optional(made.error()), false, {Errc::too_large});
    return;
  }
  const Content content = ledger_.fresh(count);
  std::optional<Buffer> buffer;
  bool filled = false;
  say(fmt::format("make {} (way {}) in arena {}", count, kind, heap.arena));
  const auto tag = next_tag();
  const auto here = location(tag);
  const auto keep = [&](thole::Result<Buffer> made) {
    if (!made) throw made.error();
    buffer = std::move(*made);
  };
  const Errc none = kind == 3 || kind == 4 ? Errc::timed_out : Errc::out_of_memory;
  const bool large = count * sizeof(Word) > heap.first;
  const auto failed = call(true, {none, large ? Errc::too_large : none}, [&] {
    switch (kind) {
      case 0:
        buffer = heap.heap.make_buffer_from(content, here);
        filled = true;
        break;
      case 1:
        keep(heap.heap.try_make_buffer<Word>(count, here));
        break;
      case 2: {
        buffer = heap.heap.make_buffer<Word>(count, 7, here);
        const Content all(count, 7);
        const auto wrong = difference(buffer->unsynchronized_data(), all.data(), count);
        if (!wrong.empty()) broken("make with a value: " + wrong);
        filled = false;
        ledger_.look(buffer->unsynchronized_data(), buffer->size_bytes());
        break;
      }
      case 3:
        keep(heap.heap.try_make_buffer_for<Word>(count, std::chrono::nanoseconds(below(2)), here));
        break;
      case 4:
        buffer = heap.heap.make_buffer_for<Word>(count, std::chrono::nanoseconds(below(2)), here);
        break;
      default:
        buffer = heap.heap.make_buffer<Word>(count, here);
    }
  });
  if (!failed) return own(heap, std::move(*buffer), filled, content, tag);
  if (count == 0) broken("an empty buffer needs no memory");
}

void Program::make_other_type(Heap& heap) {
  say("make other types");
  const auto check = [&]<class T>(thole::Result<thole::PinnedBuffer<T>> made) {
    judge(made ? std::nullopt : std::optional(made.error()), true, {Errc::out_of_memory});
    if (!made || made->empty()) return;
    ledger_.look();
    ledger_.check_free(made->unsynchronized_data(), made->size_bytes());
    if (reinterpret_cast<std::uintptr_t>(made->unsynchronized_data()) % alignof(T) != 0) broken("a misaligned buffer");
    const auto borrow = made->borrow_mut();
    std::fill_n(reinterpret_cast<unsigned char*>(borrow.data()), made->size_bytes(), static_cast<unsigned char>(0xee));
  };
  const std::size_t count = below(300);
  switch (below(3)) {
    case 0:
      return check(heap.heap.try_make_buffer<std::byte>(count));
    case 1:
      return check(heap.heap.try_make_buffer<double>(count));
    default:
      return check(heap.heap.try_make_buffer<Wide>(count / 8));
  }
}

// ---- Borrows

void Program::borrow() {
  HostBuffer* const target = pick_buffer();
  if (target == nullptr) return;
  const bool write = chance(2);
  if (busy_for_host(*target->memory, write)) return;  // the program's own work: it would have to wait itself
  if (chance(3))
    blocking_borrow(*target, write);
  else
    try_borrow(*target, write);
}

void Program::try_borrow(HostBuffer& target, bool write) {
  Memory& memory = *target.memory;
  const bool forbidden = write ? memory.readers != 0 || memory.writer : memory.writer;
  const bool open = ledger_.conflict(memory, write, true);
  say(fmt::format("try_borrow{} of {} ({}, {})", write ? "_mut" : "", memory.count, forbidden ? "borrowed" : "free",
                  open ? "in flight" : "done"));
  // What is done may not be known to be.
  const std::initializer_list<Errc> codes = {forbidden ? Errc::borrowed : Errc::in_flight,
                                             forbidden ? Errc::borrowed : Errc::in_flight};
  std::optional<thole::Error> error;
  Kept kept;
  if (write) {
    auto result = target.buffer.try_borrow_mut();
    if (result)
      kept.write = std::move(*result);
    else
      error = result.error();
  } else {
    auto result = target.buffer.try_borrow();
    if (result)
      kept.read = std::move(*result);
    else
      error = result.error();
  }
  judge(error,
        error || holds([&] { return memory.count == 0 || (!forbidden && !ledger_.conflict(memory, write, true)); }),
        codes);
  if (memory.count == 0 && error) broken("an empty buffer was refused to a borrow");
  if (error && !forbidden && memory.surely_idle()) broken("a buffer that nothing uses was refused to a borrow");
  if (error) return;
  ledger_.look();  // before anything is written
  kept.memory = target.memory;
  if (memory.count == 0) return;
  if (write) {
    memory.writer = true;
    memory.used = false;
    memory.known = true;
    memory.content = ledger_.fresh(memory.count);
    std::ranges::copy(memory.content, kept.write->begin());
  } else {
    ++memory.readers;
  }
  kept.content = std::make_shared<const Content>(memory.content);
  read_kept(kept);
  kept_.push_back(std::move(kept));
  if (kept_.size() > 8 || chance(2)) {
    std::swap(kept_.back(), kept_[below(kept_.size())]);
    end_borrow();
  }
}

void Program::blocking_borrow(HostBuffer& target, bool write) {
  Memory& memory = *target.memory;
  const bool forbidden = write ? memory.readers != 0 || memory.writer : memory.writer;
  if (!settle_all()) return;
  say(fmt::format("borrow{} of {}", write ? "_mut" : "", memory.count));
  const WhileWaiting stepping(devices_, lanes_);
  if (write) {
    const auto failed = call(!forbidden, {Errc::borrowed}, [&] {
      const auto borrowed =
          chance(4) ? or_throw(target.buffer.try_borrow_mut_for(thole::forever)) : target.buffer.borrow_mut();
      const auto wrong = difference(borrowed.data(), memory.content.data(), memory.known ? memory.count : 0);
      if (!wrong.empty()) broken("borrow_mut shows a wrong payload: " + wrong);
      memory.content = ledger_.fresh(memory.count);
      memory.known = true;
      memory.used = false;
      std::ranges::copy(memory.content, borrowed.begin());
    });
    if (!failed && chance(2)) call(true, {}, [&] { target.buffer.wait(); });
  } else {
    (void)call(!forbidden, {Errc::borrowed}, [&] {
      const auto borrowed = chance(4) ? or_throw(target.buffer.try_borrow_for(thole::forever)) : target.buffer.borrow();
      const auto wrong = difference(borrowed.data(), memory.content.data(), memory.known ? memory.count : 0);
      if (!wrong.empty()) broken("borrow shows a wrong payload: " + wrong);
    });
  }
  // Behind an event that failed a stream may capture: then nobody can know yet. A thread of the library's may have been
  // late with an event, and one that a capture broke is replaced by another when it is asked: each has run when
  // everything is settled once more.
  for (int left = 4; target.buffer.busy(); --left) {
    if (fault_fired() || fault_seen_ || !settle_all()) return;
    if (void_seen_ && captures_without_event(target.buffer)) return;
    if (left == 0) broken("a buffer is busy when everything is done:" + open_uses(target.buffer));
  }
}

void Program::read_kept(const Kept& kept) {
  if (!kept.memory->known) return;
  const Word* const data = kept.read ? kept.read->data() : kept.write->data();
  if (busy_for_host(*kept.memory, false)) return;  // a graph is writing it: the program's own affair
  const auto wrong = difference(data, kept.content->data(), kept.content->size());
  if (!wrong.empty()) broken("a borrow shows a wrong payload: " + wrong);
}

void Program::end_borrow() {
  if (kept_.empty()) return;
  std::swap(kept_[below(kept_.size())], kept_.back());
  say("end a borrow");
  Kept kept = std::move(kept_.back());
  kept_.pop_back();
  read_kept(kept);
  if (kept.write)
    kept.memory->writer = false;
  else
    --kept.memory->readers;
  if (chance(4)) {  // a moved-from borrow ends nothing
    if (kept.read) {
      const auto moved = std::move(*kept.read);
      if (!kept.read->empty() && !moved.empty()) broken("a moved-from borrow shows elements");
    } else {
      const auto moved = std::move(*kept.write);
      if (!kept.write->empty() && !moved.empty()) broken("a moved-from borrow shows elements");
    }
  }
  kept = {};
  ledger_.look();
}

// ---- Moving and dropping

void Program::move_buffer() {
  HostBuffer* const from = pick_buffer();
  if (from == nullptr) return;
  say("move a buffer");
  Buffer moved = std::move(from->buffer);
  if (chance(2)) moved_from_calls(from->buffer);
  HostBuffer* const to = pick_buffer();
  if (to != from && chance(2)) {
    // Assigning drops what was there.
    MemoryPtr gone = std::exchange(to->memory, from->memory);
    gone->handle = false;
    to->buffer = std::move(moved);
    std::swap(*from, buffers_.back());
    buffers_.pop_back();
    ledger_.look();
    return;
  }
  from->buffer = std::move(moved);
}

void Program::moved_from_calls(Buffer& empty) {
  if (empty.size() != 0 || empty.busy()) broken("a moved-from buffer has a size or is busy");
  (void)call(false, {Errc::moved_from}, [&] { (void)empty.borrow(); });
  (void)call(false, {Errc::moved_from}, [&] { (void)empty.borrow_mut(); });
  (void)call(false, {Errc::moved_from}, [&] { empty.wait(); });
  (void)call(false, {Errc::moved_from}, [&] { (void)std::move(empty).split_at(0); });
  if (const auto result = empty.try_borrow(); result || result.error().errc() != Errc::moved_from)
    broken("try_borrow of a moved-from buffer");
  if (Lane* const lane = pick_lane(false)) {
    (void)call(false, {Errc::moved_from}, [&] { (void)empty.async_to_device(*lane->ref); });
    (void)call(false, {Errc::moved_from},
               [&] { empty.use_on(*lane->ref, thole::Access::device_reads, [](const Word*, thole::NativeStream) {}); });
  }
}

void Program::drop_memory(HostBuffer&& target) {
  say(fmt::format("drop {} words at {}", target.memory->count, static_cast<const void*>(target.memory->data)));
  target.memory->handle = false;
  { const Buffer gone = std::move(target.buffer); }
  ledger_.look();
  ledger_.forget();
}

void Program::drop() {
  if (buffers_.empty()) return;
  std::swap(buffers_[below(buffers_.size())], buffers_.back());
  HostBuffer gone = std::move(buffers_.back());
  buffers_.pop_back();
  drop_memory(std::move(gone));
}

}  // namespace model
