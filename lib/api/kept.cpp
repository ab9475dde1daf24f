#include <thole/detail/kept.hpp>

#include <string>

namespace thole::inline v0_1::detail {

std::shared_ptr<void> try_keep(void* object, void (*destroy)(void*)) noexcept try {
  return {object, destroy};  // destroys it where it throws
} catch (const std::bad_alloc&) {
  return nullptr;
}

Error no_system_memory(const char* call) noexcept {
  return Error::make(Errc::out_of_memory, [&] { return std::string(call) + ": the system has no memory"; });
}

}  // namespace thole::inline v0_1::detail
