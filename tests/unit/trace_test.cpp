#include <doctest/doctest.h>

#include <sstream>
#include <string>
#include <thread>

#include <thole/thole.hpp>
#include <thole/trace.hpp>

namespace {

/// A trace that ends with the scope.
struct Trace {
  explicit Trace(const thole::TraceOptions& options = {}) { thole::start_trace(options); }
  ~Trace() { thole::stop_trace(); }
  static std::string text() {
    std::ostringstream out;
    thole::write_trace(out);
    return out.str();
  }
};

std::size_t count(const std::string& text, const std::string& what) {
  std::size_t found = 0;
  for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++found;
  return found;
}

std::size_t events(const std::string& text, const std::string& name) {
  return count(text, "{\"name\":\"" + name + '"');
}

}  // namespace

TEST_CASE("A trace has what was made, copied, dropped in flight, waited for and reclaimed, with place and stream") {
  const auto device = thole::Device::simulated();
  const auto heap = thole::PinnedHeap(thole::PinnedArena(device, {.bytes = 1 << 20}));
  const auto stream = thole::Stream(device);
  thole::name_traced_stream(stream.native(), "the \"copy\" stream");
  {
    const Trace trace;
    CHECK(thole::tracing());
    auto there = thole::DeviceBuffer<char>(stream, 5000);
    device.simulation().hold(stream);
    { heap.make_buffer<char>(5000).async_to_device(stream, there.span()); }
    { (void)heap.make_buffer<char>(100); }
    device.simulation().release(stream);
    stream.synchronize();
  }
  CHECK(!thole::tracing());
  const auto text = Trace::text();
  CHECK(events(text, "make") == 2);
  CHECK(count(text, "trace_test.cpp:") == 2);
  CHECK(events(text, "PinnedBuffer::async_to_device") == 1);
  CHECK(events(text, "drop in flight") == 1);
  CHECK(events(text, "reclaim") == 1);
  CHECK(events(text, "drop") == 1);
  CHECK(events(text, "wait for a stream") == 1);
  CHECK(count(text, "\"the \\\"copy\\\" stream\"") == 1);
}

TEST_CASE("What happens while nobody traces is in no trace, and a new one forgets the old") {
  { const Trace trace; }
  const auto device = thole::Device::simulated();
  const auto heap = thole::PinnedHeap(thole::PinnedArena(device, {.bytes = 1 << 20}));
  (void)heap.make_buffer<char>(100);
  CHECK(events(Trace::text(), "make") == 0);
  {
    const Trace trace;
    (void)heap.make_buffer<char>(100);
    CHECK(events(Trace::text(), "make") == 1);  // also while it goes on
  }
  CHECK(events(Trace::text(), "make") == 1);
  { const Trace trace; }
  CHECK(events(Trace::text(), "make") == 0);
}

TEST_CASE("A trace has a row for each thread, also of those that have ended, and what the program adds") {
  const auto device = thole::Device::simulated();
  const auto stream = thole::Stream(device);
  for (int times = 0; times < 2; ++times) {  // the buffers of the first trace's threads serve the second's
    const Trace trace;
    for (int i = 0; i < 2; ++i)
      std::thread([i] {
        thole::name_traced_thread("reader " + std::to_string(i));
        thole::TraceSpan span("read");
        span.set_bytes(77);
      }).join();
    const auto now = std::chrono::steady_clock::now();
    thole::trace_in_stream(stream.native(), "copy", now, now + std::chrono::microseconds(3), 11);
    const auto text = Trace::text();
    CHECK(events(text, "read") == 2);
    CHECK(count(text, "\"bytes\":77") == 2);
    CHECK(count(text, "reader 0") == 1);
    CHECK(count(text, "reader 1") == 1);
    CHECK(events(text, "copy") == 1);
    CHECK(count(text, "\"tid\":1000000,\"ts\":") == 1);
    CHECK(count(text, "\"dur\":3.000") == 1);
  }
}

TEST_CASE("What does not fit into a trace is counted") {
  const Trace trace({.events_per_thread = 3});
  for (int i = 0; i < 5; ++i) const thole::TraceSpan span("span");
  const auto text = Trace::text();
  CHECK(events(text, "span") == 3);
  CHECK(count(text, "events that did not fit: 2") == 1);
}

TEST_CASE("A trace of nothing, and one beside another, are refused") {
  const auto code = [](const thole::TraceOptions& options) {
    try {
      thole::start_trace(options);
    } catch (const thole::Error& error) {
      return error.errc();
    }
    return thole::Errc{};
  };
  CHECK(code({.events_per_thread = 0}) == thole::Errc::invalid_argument);
  CHECK(!thole::tracing());
  const Trace trace;
  CHECK(code({}) == thole::Errc::invalid_argument);
  CHECK(thole::tracing());
}
