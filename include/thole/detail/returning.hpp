#pragma once

// How what a program's function returns comes through the library, which knows functions without a result.

#include <functional>
#include <optional>
#include <type_traits>
#include <utility>

#include <thole/detail/std_parts.hpp>
#include <thole/error.hpp>
#include <thole/stream.hpp>

namespace thole::inline v0_1::detail {

/// `run(call)` runs `call(native)`, once and at once, or fails. Returns what `f(native)` did, which is no reference.
template <class R, class Run, class F>
Result<R> returning(Run&& run, F&& f) {
  if constexpr (std::is_void_v<R>) {
    auto call = [&](NativeStream native) { f(native); };
    return run(call);
  } else {
    std::optional<R> result;
    auto call = [&](NativeStream native) { result.emplace(f(native)); };
    if (auto ran = run(call); !ran) return tl::unexpected(std::move(ran.error()));
    return std::move(*result);
  }
}

/// As returning(), but throws; `f` may return a reference.
template <class R, class Run, class F>
R returning_or_throw(Run&& run, F&& f) {
  if constexpr (std::is_reference_v<R>) {
    std::remove_reference_t<R>* result = nullptr;
    auto call = [&](NativeStream native) {
      R returned = f(native);
      result = std::addressof(returned);
    };
    unwrap(run(call));
    return static_cast<R>(*result);
  } else {
    return unwrap(returning<R>(std::forward<Run>(run), std::forward<F>(f)));
  }
}

}  // namespace thole::inline v0_1::detail
