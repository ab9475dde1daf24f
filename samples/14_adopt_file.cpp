// A mapped file, pinned where it lies: the device copies straight from the page cache, and no byte is copied by the CPU
// before. The file's mapping is let go of when the last copy is done, whatever the program drops, and when.

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <future>
#include <memory>
#include <system_error>
#include <thole/thole.hpp>

namespace {

/// The file, mapped to be read.
gsl::span<const std::byte> map(const char* path) {
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  struct stat status {};
  if (file < 0 || fstat(file, &status) != 0) throw std::system_error(errno, std::generic_category(), path);
  const auto bytes = static_cast<std::size_t>(status.st_size);
  void* const data = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file, 0);
  const int why = errno;
  close(file);
  if (data == MAP_FAILED) throw std::system_error(why, std::generic_category(), path);
  return {static_cast<const std::byte*>(data), bytes};
}

}  // namespace

int main(int argc, char** argv) try {
  auto device = thole::Device::best();
  auto stream = thole::Stream(device);
  const auto contents = map(argc > 1 ? argv[1] : "/proc/self/exe");
  const auto unmapped = std::make_shared<std::promise<void>>();

  auto file = thole::PinnedArena::adopt_buffer(device, contents, [contents, unmapped] {
    munmap(const_cast<std::byte*>(contents.data()), contents.size());
    unmapped->set_value();
  });
  auto there = file.async_to_device(stream);  // a PinnedBuffer<const std::byte>: nothing can write it
  auto back = there.async_to_host(stream, thole::PinnedHeap(thole::PinnedArena(device, {.bytes = contents.size()})));
  fmt::print("{} bytes went there and back: {}\n", file.size(),
             std::ranges::equal(file.borrow(), back.borrow()) ? "the same" : "false");
  file = {};  // dropping never waits
  unmapped->get_future().wait();
  fmt::print("and the file is unmapped\n");
} catch (const std::exception& error) {
  fmt::print(stderr, "14_adopt_file: {}\n", error.what());
  return 1;
}
