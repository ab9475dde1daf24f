// Not compiled as it is: with -DCALL=... or -DSTATEMENT=... it must not compile, and without them must.

#include <string>
#include <thole/event.hpp>
#include <thole/heap.hpp>
#include <thole/use_on.hpp>

namespace {

class Text {
  std::string words;
};

[[maybe_unused]] void use([[maybe_unused]] const thole::PinnedHeap* heap) {
  using namespace thole;
#ifdef CALL
  (void)CALL;
#else
  (void)PinnedBuffer<int>();
  (void)sizeof(Text);
#endif
}

[[maybe_unused]] void state([[maybe_unused]] const thole::PinnedHeap* heap,
                            [[maybe_unused]] thole::PinnedBuffer<int>& buffer,
                            [[maybe_unused]] const thole::Stream* stream) {
#ifdef STATEMENT
  STATEMENT;
#endif
}

}  // namespace
