// <thole/error.hpp>

#include <doctest/doctest.h>
#include <string>
#include <system_error>
#include <thole/error.hpp>

using namespace thole;

TEST_CASE("an Error is a std::system_error with thole's category, its code and its text") {
  const Error error(Errc::too_small, "object: call: 7 of 9");
  const std::system_error& base = error;
  const bool same = base.code() == Errc::too_small;
  CHECK(same);
  CHECK(std::string(base.code().category().name()) == "thole");
  CHECK(error.errc() == Errc::too_small);
  CHECK(std::string(error.what()).find("object: call: 7 of 9") == 0);
}

TEST_CASE("every code has words of its own") {
  for (int code = static_cast<int>(Errc::invalid_argument); code <= static_cast<int>(Errc::device_error); ++code) {
    const std::string words = make_error_code(static_cast<Errc>(code)).message();
    CHECK_FALSE(words.empty());
    CHECK(words != "unknown error");
    for (int other = static_cast<int>(Errc::invalid_argument); other < code; ++other)
      CHECK(words != make_error_code(static_cast<Errc>(other)).message());
  }
  CHECK(error_category().message(9999) == "unknown error");
}

TEST_CASE("a Result holds the value, or the Error that the throwing twin throws") {
  const Result<int> good = 7;
  const Result<int> bad = tl::unexpected(Error(Errc::limit, "no"));
  CHECK(*good == 7);
  CHECK(bad.error().errc() == Errc::limit);
}
