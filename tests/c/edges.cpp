// Arguments of <thole/thole.h> that may be NULL, and calls within calls.

#include <thole/thole.h>
#include <initializer_list>

#include "rig.hpp"

namespace {

/// It is no memory of any heap's, where it is not given back.
void no_address_is_not_found() {
  const Rig rig;
  int called = 0;
  const auto enqueue = [](void* context, void*) { ++*static_cast<int*>(context); };
  thole_block block{&called, 5, 7};
  IS(thole_find(rig.heap, nullptr, &block), THOLE_NOT_FOUND);
  CHECK(block.data == &called && block.bytes == 5 && block.in_flight == 7);
  IS(thole_arena_contains(rig.arena, nullptr), THOLE_NOT_FOUND);
  IS(thole_wait_for(rig.heap, nullptr, THOLE_READS, 0), THOLE_NOT_FOUND);
  IS(thole_record_use(rig.heap, nullptr, rig.stream, THOLE_READS), THOLE_NOT_FOUND);
  IS(thole_use_on(rig.heap, nullptr, rig.stream, THOLE_READS, enqueue, &called), THOLE_NOT_FOUND);
  CHECK(called == 0);
}

void no_native_stream_is_the_default_stream() {
  const Rig rig;
  thole_stream* view = nullptr;
  OK(thole_stream_from_native(rig.device, nullptr, &view));
  void* native = &view;
  OK(thole_stream_native(view, &native));
  CHECK(native == nullptr);
  void* const data = rig.allocate();
  OK(thole_record_use(rig.heap, data, view, THOLE_READS));
  CHECK(rig.in_flight(data));
  std::size_t done = 0;
  OK(thole_simulation_step(rig.device, view, 1, &done));
  CHECK(done == 1 && !rig.in_flight(data));
  thole_stream_destroy(view);
  OK(thole_deallocate(rig.heap, data));
}

void every_address_in_a_block_stands_for_it_where_it_is_not_given_back() {
  const Rig rig;
  char* const data = static_cast<char*>(rig.allocate());
  int called = 0;
  const auto enqueue = [](void* context, void*) { ++*static_cast<int*>(context); };
  OK(thole_use_on(rig.heap, data + 4095, rig.stream, THOLE_WRITES, enqueue, &called));
  CHECK(called == 1);
  IS(thole_wait_for(rig.heap, data + 4095, THOLE_READS, 0), THOLE_TIMED_OUT);
  thole_block block{};
  OK(thole_find(rig.heap, data + 4095, &block));
  CHECK(block.data == data && block.bytes == 4096 && block.in_flight == 1);
  OK(thole_arena_contains(rig.arena, data + 4095));
  OK(thole_simulation_run_all(rig.device, nullptr));
  OK(thole_wait_for(rig.heap, data + 4095, THOLE_WRITES, 0));
  OK(thole_deallocate(rig.heap, data));
}

/// What a function of thole_use_on() calls, and what is said of it there.
struct Within {
  const Rig* rig;
  void* data;
  thole_access access;
  thole_status status;
  int called;
  bool named;
};

void a_use_in_a_function_of_a_use_is_refused_where_one_writes() {
  const auto innermost = [](void* context, void*) { ++static_cast<Within*>(context)->called; };
  static void (*const call)(void*, void*) = innermost;
  const auto use = [](void* context, void*) {
    auto& within = *static_cast<Within*>(context);
    within.status = thole_use_on(within.rig->heap, within.data, within.rig->stream, within.access, call, &within);
    within.named = within.status == THOLE_OK || last_names("thole_use_on");
  };
  const Rig rig;
  void* const data = rig.allocate();
  for (const thole_access outer : {THOLE_READS, THOLE_WRITES})
    for (const thole_access inner : {THOLE_READS, THOLE_WRITES}) {
      Within within{&rig, data, inner, THOLE_FAILED, 0, false};
      OK(thole_use_on(rig.heap, data, rig.stream, outer, use, &within));
      const bool reads = outer == THOLE_READS && inner == THOLE_READS;
      IS(within.status, reads ? THOLE_OK : THOLE_BORROWED);
      CHECK(within.called == (reads ? 1 : 0) && within.named);
    }
  OK(thole_deallocate(rig.heap, data));
}

}  // namespace

int main() {
  no_address_is_not_found();
  no_native_stream_is_the_default_stream();
  every_address_in_a_block_stands_for_it_where_it_is_not_given_back();
  a_use_in_a_function_of_a_use_is_refused_where_one_writes();
  return failures == 0 ? 0 : 1;
}
