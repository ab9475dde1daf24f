// Arenas in a container that is full: a group of processes of this test's own, beyond whose limit the kernel kills.
// What thole is asked for beyond it is refused in words and with the numbers. Each scenario is a process of its own in
// the group; where no group can be made the test is skipped.
//
// Of memory that the driver allocates (PinMethod::host_alloc) the simulated device touches nothing, so that it would
// show nothing here.

#include <sys/statfs.h>

#include <algorithm>
#include <array>
#include <barrier>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

#include <thole/thole.hpp>

#include "support/memory_group.hpp"
#include "support/sanitized.hpp"

namespace {

using namespace thole;

constexpr std::size_t MiB = std::size_t{1} << 20;
constexpr std::size_t limit = 300 * MiB;
constexpr int skipped = 77;

using Bytes = PinnedBuffer<std::byte>;

[[noreturn]] void fail(const std::string& why) {
  std::fprintf(stderr, "  %s\n", why.c_str());
  std::exit(1);
}
void must(bool holds, const std::string& what) {
  if (!holds) fail("not so: " + what);
}

/// What the group is: its files, which errors name.
struct In {
  std::string folder;
  std::string usage_file;

  std::size_t usage() const {
    std::size_t bytes = 0;
    std::ifstream(usage_file) >> bytes;
    return bytes;
  }
  void must_be_refused(const Error& error) const {
    const std::string text = error.what();
    must(error.errc() == Errc::limit || error.errc() == Errc::out_of_memory, "limit or out_of_memory: " + text);
    // In memory, or in memory and swap together: both are as much.
    must(text.find(folder) != std::string::npos, "it names the limit: " + text);
    must(text.find(" is " + std::to_string(limit)) != std::string::npos, "it has the limit: " + text);
    must(text.find(" is in use") != std::string::npos, "it has what is in use: " + text);
  }
};

/// Every page of it has memory.
void use(const PinnedArena& arena) {
  for (const auto span : arena.regions()) std::memset(span.data(), 1, span.size());
}

// ---- What happens in the group

/// Proves that the kernel kills here, or all the others would prove nothing.
void too_much(const In&) {
  const std::size_t bytes = limit + 100 * MiB;
  auto* const data = static_cast<char*>(std::malloc(bytes));
  for (std::size_t at = 0; data != nullptr && at < bytes; at += 4096) static_cast<volatile char*>(data)[at] = 1;
}

void one_too_large(const In& in) {
  const auto device = Device::simulated();
  for (const PinMethod pin : {PinMethod::register_pages, PinMethod::host_alloc}) {
    const auto arena = PinnedArena::try_make(device, {.bytes = limit, .pin_method = pin});
    must(!arena, "an arena as large as the limit is refused");
    in.must_be_refused(arena.error());
  }
  const PinnedArena fits(device, {.bytes = limit / 2});
  use(fits);
}

/// The largest that there is room for, in steps of a quarter MiB.
PinnedArena largest(const In& in, const Device& device) {
  for (std::size_t bytes = limit; bytes != 0; bytes -= MiB / 4) {
    auto arena = PinnedArena::try_make(device, {.bytes = bytes});
    if (arena) return std::move(*arena);
    in.must_be_refused(arena.error());
  }
  fail("no arena has room");
}

void just_fits(const In& in) {
  const PinnedArena arena = largest(in, Device::simulated());
  must(arena.capacity() >= limit - 16 * MiB, "nearly all is to be had, not " + std::to_string(arena.capacity()));
  use(arena);
  (void)PinnedHeap(arena).make_buffer<std::byte>(MiB);
}

void beside_a_heap(const In& in) {
  const auto device = Device::simulated();
  const PinnedHeap heap(PinnedArena(device, {.bytes = 32 * MiB}));
  std::vector<Bytes> buffers;
  buffers.reserve(32 * MiB / 64);
  buffers.push_back(heap.make_buffer<std::byte>(64));  // asks what records may have while there is much
  const PinnedArena arena = largest(in, device);
  use(arena);
  for (;;) {
    auto made = heap.try_make_buffer<std::byte>(64);
    if (!made) return in.must_be_refused(made.error());
    buffers.push_back(std::move(*made));
  }
}

void eight_at_once(const In& in) {
  constexpr std::size_t each = 60 * MiB;
  const auto device = Device::simulated();
  std::mutex mutex;
  std::vector<PinnedArena> arenas;
  std::vector<Error> errors;
  std::barrier ready(8);
  std::vector<std::thread> threads;
  for (int i = 0; i != 8; ++i)
    threads.emplace_back([&] {
      ready.arrive_and_wait();
      auto arena = PinnedArena::try_make(device, {.bytes = each});
      const std::scoped_lock lock(mutex);
      if (arena)
        arenas.push_back(std::move(*arena));
      else
        errors.push_back(arena.error());
    });
  for (std::thread& thread : threads) thread.join();
  for (const PinnedArena& arena : arenas) use(arena);
  for (const Error& error : errors) in.must_be_refused(error);
  must(arenas.size() >= 3,
       "three arenas of a fifth of the limit have room, and there are " + std::to_string(arenas.size()));
  must(arenas.size() <= 4, "no five have");
}

void growth(const In& in) {
  const PinnedArena arena(Device::simulated(), {.bytes = 16 * MiB, .max_bytes = 1024 * MiB});
  const PinnedHeap heap(arena);
  std::vector<Bytes> buffers;
  for (;;) {
    auto made = heap.try_make_buffer<std::byte>(8 * MiB, static_cast<std::byte>(buffers.size()));
    if (!made) {
      in.must_be_refused(made.error());
      break;
    }
    buffers.push_back(std::move(*made));
  }
  must(buffers.size() * 8 * MiB >= limit / 2, "half of the limit is to be had");
  for (std::size_t i = 0; i != buffers.size(); ++i) {
    const auto borrow = buffers[i].borrow();
    must(std::ranges::all_of(borrow, [i](std::byte value) { return value == static_cast<std::byte>(i); }),
         "what was made before is as it was");
  }
}

/// A folder of a disk: files in memory are no page cache.
std::string folder_on_disk() {
  constexpr std::array<decltype(statfs::f_type), 2> in_memory{0x01021994, 0x858458f6};  // tmpfs, ramfs
  for (const auto& folder : {std::filesystem::temp_directory_path(), std::filesystem::current_path()})
    if (struct statfs system{}; statfs(folder.c_str(), &system) == 0)
      if (std::ranges::find(in_memory, system.f_type) == in_memory.end()) return folder.string();
  return {};
}

void page_cache(const In& in) {
  const std::string folder = folder_on_disk();
  if (folder.empty()) {
    std::puts("  skipped: no folder here is on a disk");
    return;
  }
  std::string name = folder + "/thole-cgroup-XXXXXX";
  const int file = mkstemp(name.data());
  must(file >= 0, "a file can be made in " + folder);
  unlink(name.c_str());
  std::vector<char> piece(MiB, 'x');
  constexpr std::size_t pieces = 180;
  for (std::size_t i = 0; i != pieces; ++i) must(write(file, piece.data(), MiB) == MiB, "the disk has room");
  must(fsync(file) == 0, "the file can be written");
  for (int again = 0; again != 2; ++again)  // what is read twice is on the kernel's active list
    for (std::size_t i = 0; i != pieces; ++i)
      must(pread(file, piece.data(), MiB, static_cast<off_t>(i * MiB)) == MiB, "the file can be read");
  constexpr std::size_t bytes = 200 * MiB;
  if (in.usage() + bytes <= limit) std::puts("  the file is in no page cache of the group's: this shows nothing");
  const PinnedArena arena(Device::simulated(), {.bytes = bytes});
  use(arena);
  close(file);
}

void many_small(const In& in) {
  const PinnedArena arena(Device::simulated(), {.bytes = 160 * MiB});
  const PinnedHeap heap(arena);
  std::vector<Bytes> buffers;
  buffers.reserve(160 * MiB / 64);  // addresses only: the pages come as they are written
  const auto fill = [&] {
    for (;;) {
      auto made = heap.try_make_buffer<std::byte>(64);
      if (!made) return made.error();
      buffers.push_back(std::move(*made));
    }
  };
  in.must_be_refused(fill());
  must(buffers.size() >= 500'000, "half a million have room, not " + std::to_string(buffers.size()));
  must(arena.stats().bookkeeping >= buffers.size() * 96, "their records count");
  buffers.resize(buffers.size() - 1000);
  for (int i = 0; i != 1000; ++i) buffers.push_back(heap.make_buffer<std::byte>(64));
}

struct Scenario {
  const char* name;
  const char* rule;
  void (*run)(const In&);
};
constexpr std::array scenarios{
    Scenario{"too_much", "who takes more than there is, is killed", too_much},
    Scenario{"one_too_large", "one arena that is too large is refused", one_too_large},
    Scenario{"just_fits", "the largest arena that has room leaves some for the program", just_fits},
    Scenario{"beside_a_heap", "a heap's records take nothing that an arena has", beside_a_heap},
    Scenario{"eight_at_once", "of eight threads that pin at once as many succeed as have room", eight_at_once},
    Scenario{"growth", "growth ends in an error, and what was made is good", growth},
    Scenario{"page_cache", "page cache makes way for an arena", page_cache},
    Scenario{"many_small", "the records of small buffers end in an error", many_small},
};

// ---- The processes

/// Runs the scenario in the group; what waitpid() says of it.
int run(const support::MemoryGroup& group, const Scenario& scenario) {
  std::printf("%s: %s\n", scenario.name, scenario.rule);
  std::fflush(nullptr);
  const std::string processes = group.processes(), folder = group.folder(), usage_file = group.usage_file();
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    if (support::MemoryGroup::join(processes.c_str()))
      execl("/proc/self/exe", "cgroup_test", scenario.name, folder.c_str(), usage_file.c_str(), nullptr);
    _exit(126);
  }
  int status = -1;
  if (child < 0 || waitpid(child, &status, 0) != child) fail("a child could not be run");
  return status;
}

int skip(const std::string& why) {
  std::printf("skipped: %s\n", why.c_str());
  return skipped;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc == 4) {
    const auto* const scenario = std::ranges::find(scenarios, std::string_view(argv[1]), &Scenario::name);
    if (scenario == scenarios.end()) fail("there is no such scenario");
    scenario->run({argv[2], argv[3]});
    return 0;
  }
  // ASan's shadow, and what it keeps of freed memory, filled the group, and the kernel killed for it.
  if (THOLE_TEST_SANITIZED) return skip("a sanitizer's own memory would fill the group");
  std::string why;
  const auto group = support::MemoryGroup::make(limit, why);
  if (!group) return skip("no group with a limit on memory can be made here: " + why);
  bool good = true;
  for (const Scenario& scenario : scenarios) {
    const int status = run(*group, scenario);
    if (&scenario == scenarios.begin()) {
      if (!WIFSIGNALED(status)) return skip("the kernel kills nobody in " + group->folder());
      continue;
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
    good = false;
    if (WIFSIGNALED(status))
      std::printf("  FAILED: killed by signal %d\n", WTERMSIG(status));
    else
      std::printf("  FAILED: exit status %d\n", WEXITSTATUS(status));
  }
  return good ? 0 : 1;
} catch (const std::exception& error) {
  fail(std::string("thrown: ") + error.what());
}
