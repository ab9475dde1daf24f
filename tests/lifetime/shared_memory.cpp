// Two programs have one file of /dev/shm mapped. Each adopts its own view, on its own device, and what one's device
// writes the other's reads. The program starts itself again as the other one.

#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <thole/thole.hpp>

namespace {

using namespace thole;

constexpr std::size_t bytes = std::size_t{1} << 20;
constexpr int skipped = 77;

const char* who = "the first program";

void must(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "%s: not so: %s\n", who, what.c_str());
  std::exit(1);
}

/// To the other program: it is your turn, and it is mine. Ends this one where the other has ended.
class Turns {
 public:
  explicit Turns(int socket) : socket_(socket) {}
  void pass() const { must(send(socket_, "x", 1, MSG_NOSIGNAL) == 1, "the other program is there"); }
  void wait() const {
    char byte = 0;
    must(read(socket_, &byte, 1) == 1, "the other program goes on");
  }

 private:
  int socket_;
};

/// This program's view of the file, adopted.
class View {
 public:
  explicit View(int file)
      : data_(static_cast<std::byte*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0))) {
    must(data_ != MAP_FAILED, "the file can be mapped");
    arena_ = std::make_unique<PinnedArena>(
        PinnedArena::adopt(device_, gsl::span<std::byte>(data_, bytes), [this] { released_.set_value(); }));
    memory_ = PinnedHeap(*arena_).make_buffer<std::byte>(bytes);
    must(memory_.unsynchronized_data() == data_, "the buffer is the file's memory");
    if (device_.backend() == Backend::simulated)
      must(device_.simulation().pinned_bytes() >= 5 * bytes, "this program's view is pinned beside its arena");
  }
  ~View() {
    memory_ = {};
    arena_.reset();
    released_.get_future().wait();
    munmap(data_, bytes);
  }
  View(const View&) = delete;
  View& operator=(const View&) = delete;

  /// From the device's memory into the file's.
  void write(int value) {
    const auto from = heap_.make_buffer<std::byte>(bytes, static_cast<std::byte>(value));
    const auto there = from.async_to_device(stream_);
    memory_.async_from_device(stream_, there.span());
    memory_.wait();
  }
  /// What the device finds in the file's memory.
  void must_be(int value) {
    const auto back = memory_.async_to_device(stream_).async_to_host(stream_, heap_);
    const auto borrow = back.borrow();
    must(std::ranges::all_of(borrow, [value](std::byte byte) { return byte == static_cast<std::byte>(value); }),
         "the device finds " + std::to_string(value));
  }

 private:
  Device device_ = Device::best();
  Stream stream_{device_};
  PinnedHeap heap_{PinnedArena(device_, {.bytes = 4 * bytes})};
  std::promise<void> released_;
  std::byte* const data_;
  std::unique_ptr<PinnedArena> arena_;
  PinnedBuffer<std::byte> memory_;
};

void first(int file, const Turns& other) {
  View view(file);
  view.write(1);
  other.pass();
  other.wait();
  view.must_be(2);
  view.write(3);
  other.pass();
  other.wait();  // the other program has let go of its view
  view.must_be(4);
  view.write(5);
  view.must_be(5);
}

void second(int file, const Turns& other) {
  {
    View view(file);
    other.wait();
    view.must_be(1);
    view.write(2);
    other.pass();
    other.wait();
    view.must_be(3);
    view.write(4);
  }
  other.pass();
}

}  // namespace

int main(int argc, char** argv) try {
  alarm(60);
  if (argc == 3) {
    who = "the second program";
    const int file = open(argv[1], O_RDWR | O_CLOEXEC);
    must(file >= 0, "the file is there");
    unlink(argv[1]);  // here, too, should the first be killed
    second(file, Turns(std::atoi(argv[2])));
    return 0;
  }
  std::string name = "/dev/shm/thole-test-XXXXXX";
  const int file = mkostemp(name.data(), O_CLOEXEC);
  static const struct Removal {
    std::string name;
    ~Removal() { unlink(name.c_str()); }
  } removal{name};
  if (file < 0) {
    std::puts("skipped: no file can be made in /dev/shm");
    return skipped;
  }
  std::array<int, 2> sockets{};
  pid_t child = -1;
  if (ftruncate(file, bytes) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, sockets.data()) == 0) {
    const std::string socket = std::to_string(sockets[1]);
    std::string program = "shared_memory", argument = socket;
    fcntl(sockets[0], F_SETFD, FD_CLOEXEC);
    std::array<char*, 4> arguments{program.data(), name.data(), argument.data(), nullptr};
    if (posix_spawn(&child, "/proc/self/exe", nullptr, nullptr, arguments.data(), environ) != 0) child = -1;
    close(sockets[1]);
  }
  must(child > 0, "the other program starts");
  first(file, Turns(sockets[0]));
  int status = 0;
  must(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0,
       "the other program is well");
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s: thrown: %s\n", who, error.what());
  return 1;
}
