#pragma once

// What tests of adopted memory share: pages of the program's, and a release that can be waited for.

#include <sys/mman.h>

#include <atomic>
#include <functional>
#include <future>
#include <memory>
#include <vector>

#include <doctest/doctest.h>
#include <thole/thole.hpp>

#include "support/rig.hpp"

namespace support {

inline constexpr std::size_t page = 4096;

/// Pages of the program's own.
class Mapped {
 public:
  explicit Mapped(std::size_t bytes, int protection = PROT_READ | PROT_WRITE, int file = -1)
      : bytes_(bytes),
        data_(static_cast<std::byte*>(
            mmap(nullptr, bytes, protection, file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, file, 0))) {
    REQUIRE(data_ != MAP_FAILED);
  }
  ~Mapped() { munmap(data_, bytes_); }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;
  gsl::span<std::byte> span() const { return {data_, bytes_}; }
  gsl::span<const std::byte> bytes() const { return {data_, bytes_}; }
  std::byte* data() const { return data_; }

 private:
  const std::size_t bytes_;
  std::byte* const data_;
};

/// A release that can be waited for, and counts.
class Release {
 public:
  std::function<void()> function() {
    return [state = state_] {
      ++state->calls;
      state->promise.set_value();
    };
  }
  void wait() const { state_->future.wait(); }
  int calls() const { return state_->calls; }

 private:
  struct State {
    std::promise<void> promise;
    std::future<void> future = promise.get_future();
    std::atomic<int> calls{0};
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

/// What was to be released before has been: releases come one after the other.
inline void let_releases_pass(const Device& device) {
  std::vector<int> data(1);
  const Release release;
  { const auto buffer = PinnedArena::adopt_buffer(device, gsl::span<int>(data), Release(release).function()); }
  release.wait();
}

inline bool is_registered(const Device& device, const void* data) {
  auto& backend = backend_of(device);
  if (!backend.register_host(const_cast<void*>(data), 1).ok()) return true;
  REQUIRE(backend.unregister_host(const_cast<void*>(data)).ok());
  return false;
}

}  // namespace support
