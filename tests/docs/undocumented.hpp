#pragma once

namespace thole {

/// A class.
class Documented {
 public:
  Documented(Documented&& other) noexcept;
  /// Does something.
  void remembered();
  void forgotten();
};

}  // namespace thole
