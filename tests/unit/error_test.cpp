// <thole/error.hpp>

#include <doctest/doctest.h>
#include <iterator>
#include <optional>
#include <string>
#include <system_error>
#include <thole/error.hpp>
#include <utility>

#include "support/allocations.hpp"
#include "support/rig.hpp"
#include "support/sanitized.hpp"

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

TEST_CASE("code that knows nothing of thole tells its errors by std::errc") {
  const std::pair<Errc, std::errc> all[] = {
      {Errc::invalid_argument, std::errc::invalid_argument},
      {Errc::out_of_memory, std::errc::not_enough_memory},
      {Errc::limit, std::errc::not_enough_memory},
      {Errc::too_large, std::errc::value_too_large},
      {Errc::too_small, std::errc::no_buffer_space},
      {Errc::borrowed, std::errc::device_or_resource_busy},
      {Errc::in_flight, std::errc::operation_would_block},
      {Errc::timed_out, std::errc::timed_out},
      {Errc::moved_from, std::errc::invalid_argument},
      {Errc::wrong_device, std::errc::cross_device_link},
      {Errc::no_device, std::errc::no_such_device},
      {Errc::capturing, std::errc::operation_in_progress},
      {Errc::device_lost, std::errc::no_such_device_or_address},
      {Errc::device_error, std::errc::io_error},
  };
  CHECK(std::size(all) == static_cast<std::size_t>(Errc::device_error));
  for (const auto& [code, condition] : all) {
    const std::error_code ours = code;  // by is_error_code_enum and make_error_code
    CHECK(ours == condition);
    CHECK(ours != std::errc::permission_denied);
    CHECK(Error(code, "text").code() == condition);
  }
  const std::error_code unknown(9999, error_category());
  CHECK(unknown.default_error_condition() == std::error_condition(9999, error_category()));
}

TEST_CASE("a Result holds the value, or the Error that the throwing twin throws") {
  const Result<int> good = 7;
  const Result<int> bad = tl::unexpected(Error(Errc::limit, "no"));
  CHECK(*good == 7);
  CHECK(bad.error().errc() == Errc::limit);
}

TEST_CASE("an Error whose text is made has that text and its code") {
  const auto error = Error::make(Errc::limit, [] { return std::string("object: call: 7 of 9"); });
  CHECK(error.errc() == Errc::limit);
  CHECK(std::string(error.what()).starts_with("object: call: 7 of 9"));
}

#if !THOLE_TEST_SANITIZED
TEST_CASE("where there is no memory for an Error's text, the Error has its code, and says so") {
  for (int code = static_cast<int>(Errc::invalid_argument); code <= static_cast<int>(Errc::device_error); ++code) {
    std::optional<Error> error;
    {
      const support::NoMemory no_memory;
      const auto made = Error::make(static_cast<Errc>(code), [] { return std::string(1000, 'x'); });
      error = made;
    }
    CHECK(error->errc() == static_cast<Errc>(code));
    CHECK(std::string(error->what()).find("no memory for this error's own text") != std::string::npos);
    CHECK(std::string(error->what()).find(make_error_code(static_cast<Errc>(code)).message()) != std::string::npos);
  }
}

TEST_CASE("a call that never throws says its error also where there is no memory for a text") {
  support::Rig rig;
  const auto kept = std::move(rig.heap);
  const auto kept_device = std::move(rig.device);
  const Stream stream(kept_device);
  auto target = DeviceBuffer<std::byte>(stream, 64);
  kept.make_buffer<std::byte>(64).async_to_device(stream, target.span());  // something to drain
  const auto error_of = [](auto&& call) {
    const support::NoMemory no_memory;
    const auto result = call();
    return result ? Errc{} : result.error().errc();
  };
  CHECK(error_of([&] { return rig.heap.try_make_buffer<int>(1); }) == Errc::moved_from);
  CHECK(error_of([&] { return rig.heap.drain_for(std::chrono::seconds(0)); }) == Errc::moved_from);
  CHECK(error_of([&] { return kept.try_make_buffer<double>(SIZE_MAX); }) == Errc::too_large);
  CHECK(error_of([&] { return kept.drain_for(std::chrono::seconds(0)); }) == Errc::out_of_memory);
  CHECK(error_of([&] { return PinnedArena::try_make(rig.device); }) == Errc::moved_from);
  CHECK(error_of([&] { return PinnedArena::try_make(kept_device, {.bytes = 4096}); }) == Errc::out_of_memory);
}
#endif
