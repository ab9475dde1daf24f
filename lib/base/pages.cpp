#include "base/pages.hpp"

#include <sys/mman.h>

namespace thole::inline v0_1::detail {

bool give_pages_back(std::byte* data, std::size_t bytes) noexcept { return madvise(data, bytes, MADV_DONTNEED) == 0; }

}  // namespace thole::inline v0_1::detail
