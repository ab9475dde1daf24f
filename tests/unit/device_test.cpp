// <thole/device.hpp>

#include <doctest/doctest.h>

#include <cstdlib>
#include <optional>
#include <string>
#include <thole/config.hpp>
#include <thole/device.hpp>

#include "support/child.hpp"
#include "support/rig.hpp"

using namespace support;

namespace {

/// Sets a variable of the environment while it lives.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) {
    if (const char* const before = std::getenv(name)) before_ = before;
    setenv(name, value, 1);
  }
  ~Variable() {
    if (before_)
      setenv(name_, before_->c_str(), 1);
    else
      unsetenv(name_);
  }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

}  // namespace

TEST_CASE("THOLE_DEVICE=simulated makes best() a simulated device") {
  const Variable variable("THOLE_DEVICE", "simulated");
  CHECK(Device::best().backend() == thole::Backend::simulated);
  CHECK(Device::best().name() == "simulated");
}

TEST_CASE("any other THOLE_DEVICE is an error that quotes it") {
  for (const char* const value : {"nonsense", "cuda:", "cuda:x", "cuda:1x", "cuda:-1", "CUDA", "simulated "}) {
    const Variable variable("THOLE_DEVICE", value);
    const auto text = errc_text([] { (void)Device::best(); }, Errc::invalid_argument);
    CHECK(has(text, std::string("\"") + value + "\""));
    CHECK(has(text, "THOLE_DEVICE"));
  }
}

TEST_CASE("a GPU that does not exist is no_device, and the text says which was asked for") {
  for (const int ordinal : {-1, 1000}) {
    CHECK(has(errc_text([&] { (void)Device::cuda(ordinal); }, Errc::no_device), std::to_string(ordinal)));
    CHECK(has(errc_text_of(Device::try_cuda(ordinal), Errc::no_device), std::to_string(ordinal)));
  }
  const Variable variable("THOLE_DEVICE", "cuda:1000");
  CHECK(has(errc_text([] { (void)Device::best(); }, Errc::no_device), "1000"));
}

TEST_CASE("each simulated device is another one; copies of a handle are the same") {
  const Device a = Device::simulated();
  const Device b = Device::simulated();
  const Device again = a;
  CHECK(a == again);
  CHECK_FALSE(a == b);
  CHECK(a.ordinal() == 0);
  CHECK_FALSE(a.lost());
}

TEST_CASE("a GPU has no simulation's controls") {
  if (Device gpu = Device::best(); gpu.backend() == thole::Backend::cuda)
    CHECK(has(errc_text([&] { (void)gpu.simulation(); }, Errc::invalid_argument), std::string(gpu.name())));
}

TEST_CASE("there is no error to take where no destructor met one") {
  Device device = Device::simulated();
  CHECK_FALSE(device.take_error().has_value());
}

TEST_CASE("a forked child's copy of a device is lost, says why, and can be dropped; a new device works") {
  const Rig rig(stepped());
  CHECK(in_child([&] {
          if (!rig.device.lost()) return 1;
          try {
            const Stream stream(rig.device);
            return 2;
          } catch (const Error& error) {
            if (error.errc() != Errc::device_lost) return 3;
            if (!has(error.what(), "made by another process")) return 4;
          }
          const Device own = stepped();
          const Stream stream(own);
          return own.lost() ? 5 : 0;
        }) == 0);
  CHECK(!rig.device.lost());
}

TEST_CASE("a test can run code in the middle of a call that thole makes") {
  const Device device = stepped();
  const Stream stream(device);
  std::string order;
  device.simulation().before_call(SimulatedCall::synchronize_stream, [&] { order += "before "; });
  device.simulation().after_call(SimulatedCall::synchronize_stream, [&] { order += "after "; });
  stream.synchronize();
  CHECK(order == "before after ");
  stream.synchronize();
  CHECK(order == "before after ");
}

TEST_CASE("best() is one simulated device, while simulated() makes new ones") {
  const Variable variable("THOLE_DEVICE", "simulated");
  CHECK(Device::best() == Device::best());
  CHECK(Device::best() != Device::simulated());
}

TEST_CASE("THOLE_SIMULATION is understood, or refused with the words that it may have") {
  for (const char* const good : {"late", "seed=7", "late,seed=7", "seed=7,late", ""}) {
    const Variable variable("THOLE_SIMULATION", good);
    CHECK(!Device::simulated().lost());
  }
  for (const char* const bad : {"later", "seed=", "seed=x", "seed=7x", "late seed=7", "late,,seed=7"}) {
    const Variable variable("THOLE_SIMULATION", bad);
    CHECK(has(errc_text([] { (void)Device::simulated(); }, Errc::invalid_argument), bad));
    CHECK(!Device::simulated({.stepped = true}).lost());
  }
}

// A race on purpose, which TSan would report.
TEST_CASE("with THOLE_SIMULATION=late a source that is overwritten after its copy shows, though others come and go" *
          doctest::skip(THOLE_TEST_SANITIZED)) {
  const Variable variable("THOLE_SIMULATION", "late,seed=7");
  const Rig rig(Device::simulated());
  const Stream stream(rig.device), beside(rig.device);
  auto source = rig.heap.make_buffer<int>(1), other = rig.heap.make_buffer<int>(1, 0);
  DeviceBuffer<int> target(stream, 1), elsewhere(beside, 1);
  constexpr int tries = 50;
  int shown = 0;
  for (int i = 0; i != tries; ++i) {
    source.borrow_mut()[0] = 1;
    source.async_to_device(stream, target.span());
    // Meanwhile a device that is not late has long copied.
    for (int round = 0; round != 5; ++round) {
      other.async_to_device(beside, elsewhere.span());
      beside.synchronize();
    }
    source.unsynchronized_data()[0] = 2;
    shown += target.async_to_host(stream, rig.heap).borrow()[0] == 2 ? 1 : 0;
  }
  CHECK(shown > tries / 2);
}

TEST_CASE("a number of connections that no GPU has is an error with the number, before a GPU is looked for") {
  for (const int connections : {-1, 33}) {
    const auto made = Device::try_cuda(0, {.connections = connections});
    CHECK(has(errc_text_of(made, Errc::invalid_argument), std::to_string(connections) + " connections"));
  }
  CHECK_FALSE(Device::try_cuda(999, {.connections = 32}));
}
