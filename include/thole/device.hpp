#pragma once

#include <cstddef>
#include <optional>
#include <string_view>
#include <utility>

#include <thole/detail/std_parts.hpp>
#include <thole/error.hpp>
#include <thole/export.hpp>
#include <thole/simulation_options.hpp>

namespace thole::inline v0_1 {

class Simulation;

namespace detail {
struct DeviceCore;
struct HandleAccess;
}  // namespace detail

/// What a `Device` runs on.
enum class Backend { cuda, simulated };

/// How a device waits. It is one for all handles of a GPU, and stays once it is set: ask for it where the device is
/// first made. Thread safety: plain data.
struct DeviceOptions {
  /// Threads that wait for the device sleep, instead of spinning: a wait then costs no processor, and some 20 to 50 us
  /// more until the thread goes on (cudaEventBlockingSync). Waits with a timeout always sleep between looks.
  bool blocking_waits = false;
  /// How many queues the GPU has for all streams of the process, 1 to 32 (CUDA_DEVICE_MAX_CONNECTIONS); 0: as that
  /// variable says, or 8. Streams that share one wait for each other: with 8 connections, 19 of 40 streams behind a
  /// stuck one held 20 of 20 unrelated ones, with 32 none. `invalid_argument` where CUDA is in use already in the
  /// process, with another number, since then it is too late: any call of CUDA's before is. Sets the variable, as
  /// setenv does. A simulated device's streams share none.
  int connections = 0;
};

/// A shared handle to one device, cheap to copy; two handles to one GPU are equal. Streams, arenas and buffers keep
/// their device alive. A call of a handle that was moved from throws `Errc::moved_from`; it may be compared, assigned
/// and destroyed.
///
/// Thread safety: all members of one object may be called by many threads at once; assigning it needs exclusive access.
class [[nodiscard]] THOLE_EXPORT Device {
 public:
  /// The GPU with this ordinal. Throws `Error` with `Errc::no_device` where there is none, or where thole was built
  /// without CUDA. Initialises CUDA's primary context on the first call, which may take a second.
  static Device cuda(int ordinal = 0, const DeviceOptions& options = {});
  /// As `cuda`, without throwing.
  [[nodiscard]] static Result<Device> try_cuda(int ordinal = 0, const DeviceOptions& options = {}) noexcept;

  /// A new simulated device (see `Simulation`): needs no GPU, driver or toolkit. Each call makes another device. One
  /// that runs by itself obeys the environment variable THOLE_SIMULATION: `late` makes it complete work as late as it
  /// may (see `SimulationOptions::late`), `seed=N` gives the seed, `late,seed=N` both; anything else is
  /// `Errc::invalid_argument`.
  static Device simulated(const SimulationOptions& options = {}, const DeviceOptions& device_options = {});

  /// For samples, tests and trying things: obeys the environment variable THOLE_DEVICE (`cuda`, `cuda:N`, `simulated`),
  /// else a GPU if one answers, else a simulated device, the same one at each call in a process. A program that needs a
  /// GPU calls `cuda()`, so that it never runs on a simulation unknowingly. Throws `Error` with
  /// `Errc::invalid_argument` for any other THOLE_DEVICE.
  static Device best(const DeviceOptions& options = {});

  /// Whether it is a GPU.
  Backend backend() const;
  /// The GPU's name as CUDA gives it, or "simulated".
  std::string_view name() const;
  /// CUDA's ordinal; 0 on a simulated device.
  int ordinal() const;

  /// The controls of a simulated device (<thole/simulation.hpp>). Throws `Error` with `Errc::invalid_argument` on a
  /// GPU.
  Simulation simulation() const;

  /// Unpins what arenas that are gone have left pinned for later ones; returns bytes. While any stream of the process
  /// is busy, also with unrelated work, it waits for all of it, and meanwhile copies, records, launches, and making and
  /// destroying streams and events block on every thread. CUDA: "Memory Management", cudaHostUnregister. Throws `Error`
  /// with `Errc::device_lost` on a device of another process.
  std::size_t trim_pinned();
  /// At most so many bytes stay pinned for later arenas; at first, twice as many as arenas of the device had at once.
  /// What is above it is unpinned when a `PinnedArena` is made by its constructor and finds no such memory that is
  /// large enough: with 0, all of it then.
  void keep_pinned(std::size_t at_most);
  /// Bytes that stay pinned now and that no arena has.
  std::size_t kept_pinned() const;

  /// Whether a sticky error has ended the device. From then on every call that needs it says `Errc::device_lost`.
  bool lost() const;
  /// The first error that a destructor or a background thread met since the last call, if any.
  [[nodiscard]] std::optional<Error> take_error();

  friend bool operator==(const Device& a, const Device& b) noexcept { return a.core_ == b.core_; }

 private:
  friend struct detail::HandleAccess;
  explicit Device(std::shared_ptr<detail::DeviceCore> core) noexcept : core_(std::move(core)) {}
  detail::DeviceCore& core(const char* call) const;  // throws `moved_from`
  std::shared_ptr<detail::DeviceCore> core_;
};

}  // namespace thole::inline v0_1
