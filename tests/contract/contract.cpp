#include "contract.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <new>
#include <string>
#include <string_view>

#include <thole/config.hpp>

#include "backend/cuda/cuda_backend.hpp"
#include "backend/simulated/backend.hpp"

namespace contract {

namespace {

void add_gpu([[maybe_unused]] std::vector<Subject>& found, bool wanted, [[maybe_unused]] int ordinal) {
  if constexpr (thole::config::cuda) {
    auto made = thole::detail::make_cuda_backend(ordinal);
    if (made) {
      found.push_back({std::string("cuda: ").append((*made)->name()), *made});
      return;
    }
    if (wanted) FAIL("THOLE_DEVICE asks for a GPU: ", made.error().what());
  }
  if (wanted) FAIL("THOLE_DEVICE asks for a GPU, but CUDA was not compiled in");
}

std::vector<Subject> find_subjects() {
  std::vector<Subject> found{{"simulated", thole::detail::make_simulated_backend({})}};
  const char* variable = std::getenv("THOLE_DEVICE");
  const std::string_view device = variable == nullptr ? "" : variable;
  if (device != "simulated") {
    add_gpu(found, device.starts_with("cuda"), device.starts_with("cuda:") ? std::atoi(variable + 5) : 0);
  }
  return found;
}

}  // namespace

const std::vector<Subject>& subjects() {
  static const std::vector<Subject> found = find_subjects();
  return found;
}

void require(const DeviceBackend& backend, Status status, const char* call, const char* file, int line) {
  if (status.ok()) return;
  ADD_FAIL_AT(file, line, call, ": ", backend.describe(status));
}

Pages::Pages(std::size_t bytes) : data_(static_cast<unsigned char*>(std::aligned_alloc(page, bytes))), bytes_(bytes) {
  if (data_ == nullptr) throw std::bad_alloc();
  fill(0);
}

Pages::~Pages() { std::free(data_); }

void Pages::fill(unsigned char value) const { std::memset(data_, value, bytes_); }

bool Pages::holds(unsigned char value) const {
  return std::all_of(data_, data_ + bytes_, [&](unsigned char byte) { return byte == value; });
}

Gate::Gate(DeviceBackend& backend, StreamHandle stream) {
  using Shared = std::shared_ptr<std::atomic<bool>>;
  auto* shared = new Shared(opened_);
  const auto wait = [](void* argument) {
    const std::unique_ptr<Shared> gate(static_cast<Shared*>(argument));
    (*gate)->wait(false, std::memory_order_acquire);  // pairs with the release in open
  };
  CONTRACT_OK(backend, launch_host_function(stream, wait, shared));
}

void Gate::open() {
  opened_->store(true, std::memory_order_release);
  opened_->notify_all();
}

void Count::add(void* count) {
  auto& value = static_cast<Count*>(count)->value_;
  value.fetch_add(1, std::memory_order_release);
  value.notify_all();
}

void Count::wait_for(int count) const {
  for (int now = value(); now < count; now = value()) value_.wait(now, std::memory_order_acquire);
}

}  // namespace contract

TEST_CASE("the simulated device always answers, and a GPU where THOLE_DEVICE asks for one [11]") {
  REQUIRE(!contract::subjects().empty());
  for (const auto& subject : contract::subjects()) {
    MESSAGE(subject.name);
    CHECK(subject.backend->ordinal() >= 0);
    CHECK(!subject.backend->name().empty());
    CHECK(!subject.backend->describe({thole::detail::StatusCode::invalid, 1}).empty());
  }
  CHECK(contract::subjects().front().backend->simulated());
}

TEST_CASE("a device sits on a NUMA node that the machine has, or on none [65]") {
  for (const auto& subject : contract::subjects()) {
    const int node = subject.backend->numa_node();
    const std::filesystem::path nodes = "/sys/devices/system/node";
    const bool right = node == -1 || !exists(nodes) || exists(nodes / ("node" + std::to_string(node)));
    CHECK(right);
  }
  CHECK(contract::subjects().front().backend->numa_node() == -1);
  CHECK(thole::detail::make_simulated_backend({.numa_node = 3})->numa_node() == 3);
}
