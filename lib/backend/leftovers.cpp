#include "backend/leftovers.hpp"

#include <new>
#include <utility>

#include "backend/capture_guard.hpp"
#include "base/host_function.hpp"

namespace thole::inline v0_1::detail {

Leftovers::~Leftovers() {
  for (const Item& item : items_) (void)destroy(item);
}

void Leftovers::add(Kind kind, void* handle) noexcept {
  try {
    const std::scoped_lock lock(mutex_);
    items_.push_back({kind, handle});
  } catch (const std::bad_alloc&) {
    if (!in_host_function()) (void)destroy({kind, handle});
  }
}

bool Leftovers::empty() const noexcept {
  const std::scoped_lock lock(mutex_);
  return items_.empty() && !destroying_;
}

void Leftovers::done() noexcept {
  const std::scoped_lock lock(mutex_);
  destroying_ = false;
}

std::vector<Leftovers::Item> Leftovers::take_all() noexcept {
  const std::scoped_lock lock(mutex_);
  destroying_ = !items_.empty();
  return std::exchange(items_, {});
}

Status Leftovers::destroy(const Item& item) noexcept {
  const CaptureGuard guard(backend_);
  switch (item.kind) {
    case Kind::stream:
      return backend_.destroy_stream(item.handle);
    case Kind::event:
      return backend_.destroy_event(item.handle);
    case Kind::graph:
      return backend_.destroy_graph(item.handle);
    default:
      return backend_.destroy_graph_exec(item.handle);
  }
}

}  // namespace thole::inline v0_1::detail
