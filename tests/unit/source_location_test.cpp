// <thole/source_location.hpp>

#include <doctest/doctest.h>

#include <source_location>
#include <string_view>
#include <thole/source_location.hpp>

using thole::SourceLocation;

static_assert(sizeof(SourceLocation) == sizeof(void*));

TEST_CASE("a place says what std::source_location says") {
  const auto there = std::source_location::current();
  const SourceLocation place = there;
  CHECK(place.line() == there.line());
  CHECK(place.column() == there.column());
  CHECK(std::string_view(place.file_name()) == there.file_name());
  CHECK(std::string_view(place.function_name()) == there.function_name());
  const SourceLocation here = THOLE_HERE;
  CHECK(here.line() == there.line() + 6);
}

TEST_CASE("a place that is only a file and a line says so much, and is nowhere else") {
  const char* const file = "somewhere.cpp";
  const SourceLocation place(file, 1234);
  CHECK(place.file_name() == file);
  CHECK(place.line() == 1234);
  CHECK(place.column() == 0);
  CHECK(std::string_view(place.function_name()).empty());
  CHECK(SourceLocation(file, 1U << 20).line() == 32767);
  CHECK(SourceLocation(file, 1U << 20).file_name() == file);
}

TEST_CASE("no place at all is empty") {
  for (const SourceLocation place : {SourceLocation(), SourceLocation(std::source_location())}) {
    CHECK(std::string_view(place.file_name()).empty());
    CHECK(std::string_view(place.function_name()).empty());
    CHECK(place.line() == 0);
    CHECK(place.column() == 0);
  }
}
