#include "log.hpp"

namespace stream_file {

Span& Log::begin(std::size_t lane, Doing doing, std::uint64_t bytes) {
  const double at = now();
  return lanes_[lane].spans.emplace_back(Span{doing, bytes, at, at});
}

}  // namespace stream_file
