// What a handle answers after it was moved from: each call says Errc::moved_from and which object and call.

#include <doctest/doctest.h>

#include <chrono>
#include <functional>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "support/rig.hpp"

using namespace support;

namespace {

/// Each call throws moved_from, with a text that starts with the call's name.
void all_say_moved_from(const std::vector<std::pair<std::string, std::function<void()>>>& calls) {
  for (const auto& [name, call] : calls) {
    const auto text = errc_text(call, Errc::moved_from);
    CHECK(text.starts_with(name + ": "));
    CHECK(has(text, "has been moved from"));
  }
}

}  // namespace

TEST_CASE("every call of a device that was moved from, or with one, says moved_from") {
  Device device = stepped();
  const Device kept = std::move(device);
  const auto& gone = device;
  all_say_moved_from({{"Device::backend", [&] { (void)gone.backend(); }},
                      {"Device::name", [&] { (void)gone.name(); }},
                      {"Device::ordinal", [&] { (void)gone.ordinal(); }},
                      {"Device::simulation", [&] { (void)gone.simulation(); }},
                      {"Device::lost", [&] { (void)gone.lost(); }},
                      {"Device::trim_pinned", [&] { (void)device.trim_pinned(); }},
                      {"Device::kept_pinned", [&] { (void)gone.kept_pinned(); }},
                      {"Device::keep_pinned", [&] { device.keep_pinned(0); }},
                      {"Device::take_error", [&] { (void)device.take_error(); }},
                      {"PinnedArena", [&] { (void)PinnedArena(gone); }},
                      {"Stream", [&] { (void)Stream(gone); }},
                      {"from_native", [&] { (void)detail::unwrap(detail::stream_from_native(gone, nullptr)); }},
                      {"DeviceSpan::from_native", [&] { (void)DeviceSpan<int>::from_native(gone, nullptr, 1); }}});
  errc_text_of(PinnedArena::try_make(gone), Errc::moved_from);
  errc_text_of(Stream::try_make(gone), Errc::moved_from);
  CHECK_FALSE(gone == kept);
  device = kept;
  CHECK(device.name() == "simulated");
}

TEST_CASE("every call of an arena that was moved from, or with one, says moved_from") {
  Rig rig;
  const PinnedArena kept = std::move(rig.arena);
  const auto& gone = rig.arena;
  std::ostringstream picture;
  all_say_moved_from({{"PinnedArena::device", [&] { (void)gone.device(); }},
                      {"PinnedArena::capacity", [&] { (void)gone.capacity(); }},
                      {"PinnedArena::contains", [&] { (void)gone.contains(&rig); }},
                      {"PinnedArena::stats", [&] { (void)gone.stats(); }},
                      {"PinnedArena::trim", [&] { (void)rig.arena.trim(); }},
                      {"PinnedArena::draw_svg", [&] { gone.draw_svg(picture); }},
                      {"PinnedHeap", [&] { (void)PinnedHeap(gone); }}});
  rig.arena = kept;
  CHECK(rig.arena.capacity() == MiB);
}

TEST_CASE("every call of a heap that was moved from, or with one, says moved_from") {
  Rig rig;
  const Stream stream(rig.device);
  const DeviceBuffer<int> memory(stream, 4);
  const PinnedHeap kept = std::move(rig.heap);
  const auto& gone = rig.heap;
  const std::vector<int> numbers{1, 2};
  all_say_moved_from({{"PinnedHeap::make_buffer", [&] { (void)gone.make_buffer<int>(1); }},
                      {"PinnedHeap::make_buffer", [&] { (void)gone.make_buffer<int>(0); }},
                      {"PinnedHeap::make_buffer", [&] { (void)gone.make_buffer<int>(1, 7); }},
                      {"PinnedHeap::make_buffer", [&] { (void)gone.make_buffer_from(numbers); }},
                      {"PinnedHeap::make_buffer", [&] { (void)memory.async_to_host(stream, gone); }},
                      {"PinnedHeap::collect", [&] { (void)gone.collect(); }},
                      {"PinnedHeap::drain", [&] { gone.drain(); }},
                      {"PinnedHeap::stats", [&] { (void)gone.stats(); }},
                      {"PinnedHeap::report", [&] { (void)gone.report(); }},
                      {"PinnedHeap::arena", [&] { (void)gone.arena(); }}});
  errc_text_of(gone.try_make_buffer<int>(1), Errc::moved_from);
  errc_text_of(gone.try_make_buffer<int>(1, 7), Errc::moved_from);
  errc_text_of(gone.try_make_buffer_from(numbers), Errc::moved_from);
  errc_text_of(gone.try_make_buffer_for<int>(1, std::chrono::hours(1)), Errc::moved_from);
  errc_text_of(gone.drain_for(std::chrono::hours(1)), Errc::moved_from);
  rig.heap = kept;
  CHECK(rig.heap.make_buffer<int>(1).size() == 1);
}

TEST_CASE("every call of an event that was moved from, or with one, says moved_from") {
  const Rig rig;
  const Stream stream(rig.device);
  Event event = stream.record();
  const Event kept = std::move(event);
  all_say_moved_from({{"Event::device", [&] { (void)event.device(); }},
                      {"Event::ready", [&] { (void)event.ready(); }},
                      {"Event::synchronize", [&] { event.synchronize(); }},
                      {"Stream::wait", [&] { stream.wait(event); }}});
}
