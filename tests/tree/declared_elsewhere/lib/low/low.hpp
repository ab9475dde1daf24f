#pragma once

namespace thole::inline v0_1::low {

template <class T>
struct Low {
  void call();
  void inside() {}
};
int help(int);
inline int inside() { return help(1); }

}  // namespace thole::inline v0_1::low
