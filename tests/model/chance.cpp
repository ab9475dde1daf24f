// Choosing, calling and stepping.

#include <algorithm>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "api/handle_access.hpp"
#include "backend/simulated/backend.hpp"
#include "program.hpp"

namespace model {

namespace {
bool is_capturing(const Lane& lane) { return lane.capture.has_value(); }
}  // namespace

/// Also streams whose handles are gone, which end when there is room for their last event.
void release_all(const thole::Device& device) {
  static_cast<thole::detail::SimulatedBackend&>(*thole::detail::HandleAccess::core(device)->backend).release_all();
}

WhileWaiting::WhileWaiting(const std::vector<thole::Device>& devices, std::vector<Lane>& lanes) {
  for (Lane& lane : lanes)
    if (std::exchange(lane.held, false)) devices[lane.device].simulation().release(*lane.ref);
  for (const auto& device : devices) release_all(device);
  thread_ = std::jthread([&devices](const std::stop_token& stop) {
    for (; !stop.stop_requested(); std::this_thread::yield())
      for (const auto& device : devices)
        if (auto simulation = device.simulation(); simulation.blocked_callers() != 0) (void)simulation.run_all();
  });
}

std::size_t Program::some_count() {
  switch (below(traits_.large ? 24 : 40)) {
    case 0:
      return 0;
    case 1:
      return 16384 + below(49152);
    case 2:
      return 4096 + below(16384);
    case 3:
    case 4:
    case 5:
      return 1 + below(4096);
    default:
      return 1 + below(256);
  }
}

Lane* Program::lane(std::uint64_t id) {
  const auto found = std::ranges::find(lanes_, id, &Lane::id);
  return found == lanes_.end() ? nullptr : &*found;
}

Lane* Program::pick_lane(bool may_capture) {
  if (may_capture && only_capture_ != nullptr) {
    std::vector<Lane*> those;
    for (Lane& each : lanes_)
      if (each.capture && each.capture->nodes.get() == only_capture_) those.push_back(&each);
    return those[below(those.size())];
  }
  Lane* const lane = pick(lanes_);
  return lane != nullptr && lane->capture && !may_capture ? nullptr : lane;
}

HostBuffer* Program::pick_buffer() { return pick(buffers_); }

void Program::say(const std::string& text) {
  trace_.push_back(fmt::format("{:4} {}", ledger_.operations(), text));
  if (trace_.size() > 100) trace_.pop_front();
}

std::string Program::trace() const {
  std::string text;
  for (const auto& line : trace_) text += "  " + line + "\n";
  return text + traits_text_ + "\n";
}

bool Program::fault_fired() {
  if (!fault_) return fault_seen_ && (traits_.orphans || traits_.background);  // the other thread's calls count as well
  return devices_[0].simulation().calls(fault_->call) >= fault_->at;
}

void Program::judge(const std::optional<thole::Error>& error, bool success, std::initializer_list<Errc> expected) {
  const bool fired = fault_fired();
  if (fired) {
    fault_.reset();
    fault_seen_ = true;
  }
  if (!error) {
    if (!success)
      broken(fmt::format("{}: succeeded, should have failed with {}", trace_.back(),
                         make_error_code(*expected.begin()).message()));
    return;
  }
  if (std::ranges::find(expected, error->errc()) != expected.end()) return;
  const auto code = error->errc();
  // A call of another thread's, while the fault was asked for, puts it off by one: then it says so itself.
  const bool asked_for =
      fault_seen_ && std::string_view(error->what()).find("fail_call asked for this") != std::string_view::npos;
  if ((fired || asked_for) && (code == Errc::device_error || code == Errc::out_of_memory || code == Errc::limit))
    return;
  if (code == Errc::capturing && (fault_seen_ || (void_seen_ && std::ranges::any_of(lanes_, &is_capturing)))) return;
  broken(fmt::format("{}: failed with an unexpected error: {}", trace_.back(), error->what()));
}

void Program::look_at_kernels() {
  const AtRest still;
  for (const auto& kernel : kernels_)
    if (!kernel->wrong.empty()) broken(kernel->wrong);
  while (!kernels_.empty() && kernels_.front()->ran) kernels_.pop_front();
}

void Program::step(std::size_t operations) {
  for (; operations != 0; --operations) {
    const std::size_t first = below(devices_.size());
    bool did = devices_[first].simulation().step_any();
    if (!did && devices_.size() > 1) did = devices_[1 - first].simulation().step_any();
    if (!did) return;
    ledger_.look();
    look_at_kernels();
    if (devices_[0].lost() && !lost_)
      broken("the device was lost: " +
             devices_[0].take_error().value_or(thole::Error(Errc::device_lost, "?")).code().message());
  }
}

std::size_t Program::pending() const {
  std::size_t sum = 0;
  for (const auto& device : devices_) sum += device.simulation().pending();
  return sum;
}

bool Program::run_dry() {
  // A thread of the library's may be in the middle of a stream, or enqueue behind this one's back: that is not an end.
  constexpr int most_in_vain = 30;
  for (int in_vain = 0; in_vain != most_in_vain;) {
    const std::size_t before = pending();
    if (before == 0) return true;
    step(before);
    if (pending() != before) continue;
    std::size_t done = 0;
    for (const auto& device : devices_) done += device.simulation().run_all();
    ledger_.look();
    look_at_kernels();
    in_vain = done == 0 && pending() == before ? in_vain + 1 : 0;
    if (in_vain > 2) std::this_thread::yield();
  }
  return false;
}

bool Program::settle_all() {
  // Asking for the raw handle records an event behind every use; twice, since a fault may meet the first try. Who waits
  // later finds its answer then: nobody would step the device.
  for (int i = 0; i != 2; ++i)
    for (const Lane& lane : lanes_)
      if (!lane.capture) (void)lane.ref->native();
  return run_dry();
}

bool Program::after(Lane& lane, std::uint64_t stream) {
  if (lane.id == stream) return true;
  Lane* const other = this->lane(stream);
  if (other == nullptr || other->capture || lane.capture) return false;
  bool ordered = true;
  const auto failed = call(true, {}, [&] {
    const thole::Event event = other->ref->record();
    lane.ref->wait(event);
  });
  if (failed) ordered = false;
  ledger_.look();
  return ordered;
}

bool Program::order(Lane& lane, const Memory& memory, bool writes, bool all) {
  memory.used = true;  // by the call that follows, even if it fails
  memory.tried_in_capture = memory.tried_in_capture || lane.capture;
  if (lane.capture) return true;
  const auto uses = memory.uses;
  for (const Use& use : uses)
    if ((all || !use.tracked) && (writes || use.writes) && ledger_.open(use) && use.stream != lane.id)
      if (!after(lane, use.stream)) return false;
  return true;
}

bool Program::busy_for_host(const Memory& memory, bool writes) const {
  return std::ranges::any_of(
      memory.uses, [&](const Use& use) { return !use.tracked && (writes || use.writes) && ledger_.open(use); });
}

}  // namespace model
