#include <thole/error.hpp>

#include <array>

namespace thole::inline v0_1 {
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
  std::error_condition default_error_condition(int value) const noexcept override {
    switch (static_cast<Errc>(value)) {
      case Errc::invalid_argument:
      case Errc::moved_from:
        return std::errc::invalid_argument;
      case Errc::out_of_memory:
      case Errc::limit:  // as mlock() says it
        return std::errc::not_enough_memory;
      case Errc::too_large:
        return std::errc::value_too_large;
      case Errc::too_small:
        return std::errc::no_buffer_space;
      case Errc::borrowed:
        return std::errc::device_or_resource_busy;
      case Errc::in_flight:
        return std::errc::operation_would_block;
      case Errc::timed_out:
        return std::errc::timed_out;
      case Errc::wrong_device:
        return std::errc::cross_device_link;
      case Errc::no_device:
        return std::errc::no_such_device;
      case Errc::capturing:
        return std::errc::operation_in_progress;
      case Errc::device_lost:
        return std::errc::no_such_device_or_address;
      case Errc::device_error:
        return std::errc::io_error;
    }
    return {value, *this};
  }
};

}  // namespace

const std::error_category& error_category() noexcept {
  // Never destroyed: static destructors may still meet errors. A forked child keeps it (so it is no immortal<>):
  // categories are compared by their addresses.
  static const Category* const category = new Category;
  return *category;
}

namespace {

/// An Error for each code, the first for what is none. Never destroyed.
const auto& errors_without_text() {
  static constexpr int codes = static_cast<int>(Errc::device_error) + 1;
  static const auto* const errors = []<int... code>(std::integer_sequence<int, code...>) {
    return new std::array<Error, codes>{
        Error(static_cast<Errc>(code), "thole: there is no memory for this error's own text")...};
  }
  (std::make_integer_sequence<int, codes>());
  return *errors;
}

// Made while there is memory: when the library is loaded.
[[maybe_unused]] const auto& made_at_the_start = errors_without_text();

}  // namespace

Error Error::without_text(Errc code) noexcept {
  const auto& errors = errors_without_text();
  const auto index = static_cast<std::size_t>(code);
  return errors[index < errors.size() ? index : 0];
}

Error detail::moved_from(const char* call, const char* object) noexcept {
  return Error::make(Errc::moved_from, [&] { return std::string(call) + ": " + object + " has been moved from"; });
}

void detail::throw_error(Error error) { throw error; }

void detail::throw_outside(const char* call, std::size_t offset, std::size_t count, std::size_t size) {
  throw Error::make(Errc::invalid_argument, [&] {
    return std::string(call) + ": " + std::to_string(count) + (count == 1 ? " element" : " elements") +
           " from element " + std::to_string(offset) + " on, of " + std::to_string(size);
  });
}

}  // namespace thole::inline v0_1
