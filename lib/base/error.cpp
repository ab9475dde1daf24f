#include <thole/error.hpp>

namespace thole {
namespace {

class Category final : public std::error_category {
 public:
  const char* name() const noexcept override { return "thole"; }
  std::string message(int value) const override {
    switch (static_cast<Errc>(value)) {
      case Errc::invalid_argument:
        return "invalid argument";
      case Errc::out_of_memory:
        return "out of memory";
      case Errc::limit:
        return "a limit of the system";
      case Errc::too_large:
        return "too large";
      case Errc::too_small:
        return "too small";
      case Errc::borrowed:
        return "borrowed";
      case Errc::in_flight:
        return "in flight";
      case Errc::timed_out:
        return "timed out";
      case Errc::moved_from:
        return "moved from";
      case Errc::wrong_device:
        return "wrong device";
      case Errc::no_device:
        return "no such device";
      case Errc::capturing:
        return "a graph capture is going on";
      case Errc::device_lost:
        return "device lost";
      case Errc::device_error:
        return "device error";
    }
    return "unknown error";
  }
};

}  // namespace

const std::error_category& error_category() noexcept {
  // Never destroyed: static destructors may still meet errors.
  static const Category* const category = new Category;
  return *category;
}

}  // namespace thole
