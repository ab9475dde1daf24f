#include "log.hpp"

namespace stream_file {

Span& Log::begin(std::size_t lane, Doing doing, std::uint64_t bytes) {
  const double at = now();
  return lanes_[lane].spans.emplace_back(Span{doing, bytes, at, at});
}

const char* name_of(Doing doing) noexcept {
  switch (doing) {
    case Doing::wait:
      return "wait for a buffer";
    case Doing::read:
      return "read";
    case Doing::check:
      return "check what came back";
    case Doing::write:
      return "write";
    case Doing::to_device:
      return "copy to the device";
    case Doing::to_host:
      return "copy to the host";
  }
  return "";
}

}  // namespace stream_file
