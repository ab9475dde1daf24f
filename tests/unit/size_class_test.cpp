// lib/heap/size_class.hpp

#include "heap/size_class.hpp"

#include <doctest/doctest.h>

namespace size_class = thole::detail::size_class;

TEST_CASE("rounding wastes at most an eighth above 512 bytes, and never gives less than was asked for") {
  for (std::size_t bytes = 1; bytes < (std::size_t{1} << 20); bytes += bytes < 5000 ? 1 : 97) {
    const std::size_t rounded = size_class::round_up(bytes);
    REQUIRE(rounded >= bytes);
    REQUIRE(rounded % thole::detail::granule == 0);
    if (bytes > 512) REQUIRE(rounded - bytes <= bytes / 8);
    REQUIRE(size_class::round_up(rounded) == rounded);
    REQUIRE(size_class::round_up(size_class::round_down(rounded)) == rounded);
    if (bytes >= thole::detail::granule && bytes <= size_class::largest_exact)
      REQUIRE(size_class::round_up(size_class::round_down(bytes)) <= bytes);
  }
}

TEST_CASE("a class holds the sizes from its smallest up to the next one's") {
  for (std::size_t index = 0; index + 1 < size_class::count; ++index) {
    REQUIRE(size_class::index(size_class::smallest(index)) == index);
    REQUIRE(size_class::index(size_class::smallest(index + 1) - 1) == index);
    REQUIRE(size_class::smallest(index) < size_class::smallest(index + 1));
    const std::size_t limit = std::size_t{8} << 20;
    REQUIRE(size_class::list_length(index, limit) >= 1);
    if (size_class::list_length(index, limit) > 1)
      REQUIRE(size_class::list_length(index, limit) * size_class::smallest(index) <= limit / 4);
  }
}

TEST_CASE(
    "a block fits a request when it is large enough and, above the exact classes, at most a sixty-fourth too large") {
  CHECK(size_class::fits(4096, 4096));
  CHECK_FALSE(size_class::fits(4095, 4096));
  CHECK(size_class::fits((std::size_t{8} << 20) + 4096, std::size_t{8} << 20));
  CHECK_FALSE(size_class::fits(std::size_t{9} << 20, std::size_t{8} << 20));
}
