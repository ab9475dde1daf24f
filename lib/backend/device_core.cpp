#include "backend/device_core.hpp"

#include <utility>

namespace thole::inline v0_1::detail {

Errc errc_of(StatusCode code) noexcept {
  switch (code) {
    case StatusCode::out_of_memory:
      return Errc::out_of_memory;
    case StatusCode::wrong_device:
      return Errc::wrong_device;
    case StatusCode::capture:
      return Errc::capturing;
    case StatusCode::device_lost:
    case StatusCode::unloading:
      return Errc::device_lost;
    case StatusCode::not_ready:
      return Errc::in_flight;
    default:
      return Errc::device_error;
  }
}

DeviceCore::DeviceCore(std::shared_ptr<DeviceBackend> made) : backend(std::move(made)) {}
DeviceCore::~DeviceCore() = default;

std::string DeviceCore::describe(Status status) const {
  if (process_ != this_process()) return "it was made by another process, of which this one is a fork";
  return backend->describe(status);
}

Error DeviceCore::error(Status status, std::string_view object, std::string_view call, std::string_view numbers) {
  (void)note(status);
  return Error::make(errc_of(status.code), [&] {
    std::string text(object);
    text.append(" on ").append(backend->name()).append(": ").append(call);
    if (!numbers.empty()) text.append(" (").append(numbers).append(")");
    return text.append(" failed: ").append(describe(status));
  });
}

Error DeviceCore::lost_error(std::string_view call) {
  Status status{StatusCode::device_lost};
  if (process_ == this_process()) {
    const std::scoped_lock lock(mutex_);
    if (lost_status_) status = *lost_status_;
  }
  return Error::make(Errc::device_lost, [&] {
    return std::string(call).append(" on ").append(backend->name()).append(": the device is lost: ") + describe(status);
  });
}

void DeviceCore::keep_error(Status status, std::string_view object, std::string_view call) noexcept {
  (void)note(status);
  if (status.code == StatusCode::unloading || process_ != this_process()) return;  // nobody can ask for it any more
  keep_error(error(status, object, call));
}

void DeviceCore::keep_error(Error error) noexcept {
  if (process_ != this_process()) return;
  const std::scoped_lock lock(mutex_);
  if (!kept_) kept_ = std::move(error);
}

std::optional<Error> DeviceCore::take_error() noexcept {
  if (process_ != this_process()) return std::nullopt;
  const std::scoped_lock lock(mutex_);
  return std::exchange(kept_, std::nullopt);
}

void DeviceCore::tidy() noexcept {
  for (const Leftovers::Item& item : leftovers.take_all()) {
    const Status status = leftovers.destroy(item);
    if (status.ok() || lost()) continue;
    using Kind = Leftovers::Kind;
    const char* const object = item.kind == Kind::stream  ? "~Stream"
                               : item.kind == Kind::event ? "~Event"
                               : item.kind == Kind::graph ? "~Graph"
                                                          : "~GraphExec";
    keep_error(status, object, "destroying it");
  }
  leftovers.done();
  events.trim();
  if (!lost() && events.is_low()) events.refill();
}

void DeviceCore::note_lost(Status status) noexcept {
  if (process_ != this_process()) return;
  {
    const std::scoped_lock lock(mutex_);
    if (!lost_status_) lost_status_ = status;
  }
  lost_.store(true, std::memory_order_release);
}

}  // namespace thole::inline v0_1::detail
