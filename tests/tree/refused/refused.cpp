// Not compiled as it is: with -DCALL=... it must not compile, and without it must.

#include <string>
#include <thole/heap.hpp>

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

}  // namespace
