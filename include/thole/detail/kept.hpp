#pragma once

// Defined in: kept.cpp

// What a call keeps for later, without throwing where the system has no memory.

#include <new>
#include <utility>

#include <thole/detail/std_parts.hpp>
#include <thole/error.hpp>
#include <thole/export.hpp>

namespace thole::inline v0_1::detail {

/// Owns the object from now on. nullptr, with the object destroyed, where the system has no memory.
THOLE_EXPORT std::shared_ptr<void> try_keep(void* object, void (*destroy)(void*)) noexcept;
/// The Error of a call for which the system has no memory.
THOLE_EXPORT Error no_system_memory(const char* call) noexcept;

/// As std::make_shared, but nullptr where the system has no memory: also for programs that are built without
/// exceptions.
template <class T, class... Arguments>
std::shared_ptr<T> try_make_shared(Arguments&&... arguments) {
  auto* const made = new (std::nothrow) T{std::forward<Arguments>(arguments)...};
  if (made == nullptr) return nullptr;
  return std::static_pointer_cast<T>(try_keep(made, [](void* object) { delete static_cast<T*>(object); }));
}

}  // namespace thole::inline v0_1::detail
