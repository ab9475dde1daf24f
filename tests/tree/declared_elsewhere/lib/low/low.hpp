#pragma once

namespace thole::low {

template <class T>
struct Low {
  void call();
  void inside() {}
};
int help(int);
inline int inside() { return help(1); }

}  // namespace thole::low
