// A device that is lost, asked for everything. tests/contract/lost_gpu.cpp loses a GPU.

#include "backend/simulated/backend.hpp"
#include "contract.hpp"
#include "every_call.hpp"

using namespace contract;

TEST_CASE("after a loss every call of a simulated device says so, but for those that need no call [6]") {
  for (const bool own_addresses : {false, true}) {
    thole::SimulationOptions options;
    options.loss_is_final = false;
    options.own_addresses = own_addresses;
    thole::detail::SimulatedBackend backend(options);
    EveryCall every(backend);
    backend.lose_device();
    for (const auto& call : every.calls()) {
      CAPTURE(call.name);
      CAPTURE(own_addresses);
      const Status status = call.make();
      CAPTURE(backend.describe(status));
      const bool ok = call.name.starts_with("destroy_graph") || (EveryCall::may_need_no_call(call.name) && status.ok());
      CHECK(status.code == (ok ? StatusCode::ok : StatusCode::device_lost));
    }
    CHECK(backend.live_events() == 2);  // those that no call destroys
    CHECK(backend.pinned_bytes() == 0);
  }
}
