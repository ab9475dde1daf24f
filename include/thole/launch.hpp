#pragma once

// Defined in: launch.cpp

// Kernels that run on both devices.
//
//     thole::launch(stream, thole::reads(a), thole::writes(b),
//                   [&](const float* x, float* y, cudaStream_t native) { twice<<<blocks, 256, 0, native>>>(x, y, n); },
//                   [](gsl::span<const float> x, gsl::span<float> y) { for (...) y[i] = 2 * x[i]; });

#include <cstddef>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#include <gsl/span>

#include <thole/detail/kept.hpp>
#include <thole/detail/listed_use.hpp>
#include <thole/detail/std_parts.hpp>
#include <thole/error.hpp>
#include <thole/export.hpp>
#include <thole/stream.hpp>
#include <thole/use_on.hpp>

namespace thole::inline v0_1 {

namespace detail {

/// A function for the CPU, and what calls it with one place for each use.
struct CpuKernel {
  std::shared_ptr<void> function;
  void (*run)(void* function, void* const* places) = nullptr;
};
/// Whether the stream's device is a simulated one.
THOLE_EXPORT Result<bool> runs_on_cpu(const StreamRef& stream, const char* call) noexcept;
/// Enqueues the function as one use of all that is listed.
THOLE_EXPORT Result<void> launch_on_cpu(const StreamRef& stream, const ListedUse* listed, std::size_t count,
                                        const CpuKernel& kernel, const char* call) noexcept;

/// The parts of a call of launch(stream, uses..., gpu_f, cpu_f).
template <class Arguments, class Indices>
struct LaunchCall;
template <class... Arguments, std::size_t... I>
struct LaunchCall<std::tuple<Arguments...>, std::index_sequence<I...>> {
  template <std::size_t J>
  using Argument = std::remove_cvref_t<std::tuple_element_t<J, std::tuple<Arguments...>>>;
  template <std::size_t J>
  using Element = std::remove_pointer_t<decltype(Argument<J>::pointer)>;
  using CpuF = std::decay_t<std::tuple_element_t<sizeof...(I) + 1, std::tuple<Arguments...>>>;

  struct OnCpu {
    CpuF function;
    std::size_t sizes[sizeof...(I)];

    static void run(void* self, void* const* places) noexcept {
      auto& kernel = *static_cast<OnCpu*>(self);
      std::invoke(kernel.function, gsl::span<Element<I>>(static_cast<Element<I>*>(places[I]), kernel.sizes[I])...);
    }
  };

  static Result<void> run(const StreamRef& stream, std::tuple<Arguments...> arguments) {
    constexpr const char* call = "launch";
    const ListedUse uses[] = {std::get<I>(arguments).use...};
    const auto on_cpu = runs_on_cpu(stream, call);
    if (!on_cpu) return tl::unexpected(on_cpu.error());
    if (*on_cpu) {
      const auto kernel =
          try_make_shared<OnCpu>(OnCpu{std::forward<std::tuple_element_t<sizeof...(I) + 1, std::tuple<Arguments...>>>(
                                           std::get<sizeof...(I) + 1>(arguments)),
                                       {std::get<I>(arguments).use.bytes / sizeof(Element<I>)...}});
      if (kernel == nullptr) return tl::unexpected(no_system_memory(call));
      return launch_on_cpu(stream, uses, sizeof...(I), {kernel, &OnCpu::run}, call);
    }
    const void* places[sizeof...(I)] = {};
    auto gpu = [&](NativeStream native) {
      std::invoke(std::get<sizeof...(I)>(arguments),
                  static_cast<decltype(Argument<I>::pointer)>(const_cast<void*>(places[I]))..., native);
    };
    return run_uses(
        stream, uses, sizeof...(I), call,
        [](void* context, NativeStream native) { (*static_cast<decltype(gpu)*>(context))(native); }, &gpu, places);
  }
};
/// What a call of launch() is given, looked at before anything else is made of it: its mistakes have words.
template <class... Arguments>
struct LaunchCheck {
  static constexpr std::size_t count = sizeof...(Arguments);
  template <std::size_t I>
  using Given = std::tuple_element_t<I, std::tuple<Arguments...>>;
  template <std::size_t I>
  using Pointer = decltype(std::remove_cvref_t<Given<I>>::pointer);

  template <std::size_t... I>
  static constexpr bool check(std::index_sequence<I...>) {
    constexpr bool all_listed = (is_listed<std::remove_cvref_t<Given<I>>> && ...);
    static_assert(all_listed,
                  "launch: all but the last two arguments, gpu_f and cpu_f, are thole::reads(x) or thole::writes(x)");
    if constexpr (all_listed) {
      static_assert(std::is_invocable_v<std::remove_reference_t<Given<count - 2>>&, Pointer<I>..., NativeStream&>,
                    "launch: gpu_f, the last but one, takes (const A*, B*, ..., NativeStream), a pointer for each use");
      static_assert(
          std::is_invocable_v<std::decay_t<Given<count - 1>>&, gsl::span<std::remove_pointer_t<Pointer<I>>>...>,
          "launch: cpu_f, the last, takes (gsl::span<const A>, gsl::span<B>, ...), a span for each use");
      return std::is_invocable_v<std::remove_reference_t<Given<count - 2>>&, Pointer<I>..., NativeStream&> &&
             std::is_invocable_v<std::decay_t<Given<count - 1>>&, gsl::span<std::remove_pointer_t<Pointer<I>>>...>;
    }
    return false;
  }
  static constexpr bool fits() {
    static_assert(count > 2, "launch(stream, reads(a), writes(b), ..., gpu_f, cpu_f)");
    if constexpr (count > 2) return check(std::make_index_sequence<count - 2>());
    return false;
  }
};

template <class... Arguments>
using LaunchCallOf = LaunchCall<std::tuple<Arguments&&...>, std::make_index_sequence<sizeof...(Arguments) - 2>>;

}  // namespace detail

/// `launch(stream, reads(a), writes(b), ..., gpu_f, cpu_f)` is `use_on` with two functions. On a GPU it runs
/// `gpu_f(const A*, B*, ..., NativeStream)` at once, which enqueues a kernel. On a simulated device it enqueues
/// `cpu_f(gsl::span<const A>, gsl::span<B>, ...)`, which stands for the kernel: it runs in the order of the stream,
/// beside other streams, on a thread of the device's (on a stepped device, on the one that steps). It is given only
/// what is listed: device memory at an address that is good while it runs, so that what reaches for other device
/// memory, past the pages of what is listed, or writes what is only read, ends the process, as it would break a GPU.
/// `cpu_f` must not throw, and calls of thole's in it are refused; what it captures must live until it has run.
///
/// The rules, the errors and what is held are those of `use_on`; and `invalid_argument` or `device_error` where a span
/// of memory that thole does not know is no memory of the simulated device's.
///
/// Thread safety: as that of const members of what is read, and of other members of what is written.
template <class... Arguments>
void launch(const StreamRef& stream, Arguments&&... arguments) {
  if constexpr (detail::LaunchCheck<Arguments&&...>::fits())
    detail::unwrap(detail::LaunchCallOf<Arguments...>::run(stream, {std::forward<Arguments>(arguments)...}));
}

/// As `launch`, but returns thole's own error instead of throwing it.
template <class... Arguments>
[[nodiscard]] Result<void> try_launch(const StreamRef& stream, Arguments&&... arguments) {
  if constexpr (detail::LaunchCheck<Arguments&&...>::fits())
    return detail::LaunchCallOf<Arguments...>::run(stream, {std::forward<Arguments>(arguments)...});
  else
    return {};  // it does not compile
}

}  // namespace thole::inline v0_1
