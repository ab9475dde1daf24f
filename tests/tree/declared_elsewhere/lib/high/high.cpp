#include "low/low.hpp"

namespace thole::inline v0_1 {

template <class T>
void low::Low<T>::call() {
  help(2);
}
int low::help(int n) try { return n; } catch (...) {
  return 0;
}

}  // namespace thole::inline v0_1
