#pragma once

namespace thole::inline v0_1 {

/// A class.
class Documented {
 public:
  Documented(Documented&& other) noexcept;
  /// Does something.
  void remembered();
  void forgotten();
};

}  // namespace thole::inline v0_1
