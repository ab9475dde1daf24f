#include "base/bytes.hpp"

#include <algorithm>
#include <charconv>
#include <sstream>

namespace thole::inline v0_1::detail {

BytesText::BytesText(std::size_t bytes) noexcept {
  constexpr std::string_view unit = " bytes";
  char* const end = std::to_chars(text_.data(), text_.data() + text_.size(), bytes).ptr;
  size_ = static_cast<std::size_t>(std::copy(unit.begin(), unit.end(), end) - text_.data());
}

std::string bytes_text(std::size_t bytes) {
  std::ostringstream text;
  text << bytes << (bytes == 1 ? " byte" : " bytes");
  static constexpr const char* units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes);
  int unit = -1;
  while (value >= 1024 && unit < 5) {
    value /= 1024;
    ++unit;
  }
  if (unit >= 0) {
    text.precision(value < 10 ? 2 : value < 100 ? 3 : 4);
    text << " (" << value << ' ' << units[unit] << ')';
  }
  return text.str();
}

}  // namespace thole::inline v0_1::detail
