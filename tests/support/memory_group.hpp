#pragma once

// A group of processes that the kernel lets have so much memory and no more: a cgroup of version 1 or 2.

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <optional>
#include <string>
#include <thread>
#include <utility>

namespace support {

class MemoryGroup {
 public:
  /// Below the group of this process, or below one above it. Empty, and `why` says it, where none can be made.
  static std::optional<MemoryGroup> make(std::size_t bytes, std::string& why) {
    why = "this process is in no group that has limits on memory";
    std::ifstream groups("/proc/self/cgroup");
    for (std::string line; std::getline(groups, line);) {
      const bool version_2 = line.starts_with("0::");
      const auto path = line.find(":memory:");
      if (!version_2 && path == std::string::npos) continue;
      const std::string mounted = version_2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
      for (std::string at = line.substr(version_2 ? 3 : path + 8);; at.erase(at.rfind('/'))) {
        while (at.ends_with('/')) at.pop_back();
        MemoryGroup group(mounted + at + "/thole-test-" + std::to_string(getpid()), version_2);
        if (group.set_up(bytes, why)) return group;
        if (at.empty()) break;
      }
    }
    return std::nullopt;
  }

  MemoryGroup(MemoryGroup&& other) noexcept
      : folder_(std::exchange(other.folder_, {})),
        version_2_(other.version_2_),
        cleaner_(std::exchange(other.cleaner_, -1)),
        open_(std::exchange(other.open_, -1)) {}
  MemoryGroup& operator=(MemoryGroup&&) = delete;
  /// Kills what is still in the group, and removes it.
  ~MemoryGroup() {
    if (open_ >= 0) close(open_);
    if (cleaner_ > 0) waitpid(cleaner_, nullptr, 0);
  }

  const std::string& folder() const { return folder_; }
  std::string limit_file() const { return folder_ + (version_2_ ? "/memory.max" : "/memory.limit_in_bytes"); }
  std::string usage_file() const { return folder_ + (version_2_ ? "/memory.current" : "/memory.usage_in_bytes"); }

  /// The calling process is in the group from now on. Async-signal-safe, for a forked child.
  static bool join(const char* processes) {
    const int file = open(processes, O_WRONLY | O_CLOEXEC);
    const bool joined = file >= 0 && write(file, "0", 1) == 1;
    const int reason = errno;
    if (file >= 0) close(file);
    errno = reason;
    return joined;
  }
  std::string processes() const { return folder_ + "/cgroup.procs"; }

 private:
  MemoryGroup(std::string folder, bool version_2) : folder_(std::move(folder)), version_2_(version_2) {}

  bool set_up(std::size_t bytes, std::string& why) {
    if (mkdir(folder_.c_str(), 0755) != 0) {
      why = "mkdir " + folder_ + ": " + std::strerror(errno);
      return false;
    }
    start_cleaner();
    const std::string limit = std::to_string(bytes);
    write_to(limit_file(), limit);
    // Where there is swap it must not help.
    write_to(folder_ + (version_2_ ? "/memory.swap.max" : "/memory.memsw.limit_in_bytes"), version_2_ ? "0" : limit);
    std::string said;
    std::ifstream(limit_file()) >> said;
    if (said != limit) {
      why = limit_file() + (said.empty() ? " is not there" : " says " + said);
      return false;
    }
    const std::string to = processes();
    const pid_t child = fork();
    if (child == 0) _exit(join(to.c_str()) ? 0 : errno);
    int status = 0;
    if (child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0) return true;
    why = "no process can join " + folder_ + ": " + std::strerror(WEXITSTATUS(status));
    return false;
  }

  /// If the file is there: where /sys/fs/cgroup is a plain folder it must not be made.
  static void write_to(const std::string& file, const std::string& text) {
    if (access(file.c_str(), W_OK) == 0) std::ofstream(file) << text;
  }

  /// A process that outlives this one, however that ends, and notices by a pipe that it has.
  void start_cleaner() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return;
    cleaner_ = fork();
    if (cleaner_ == 0) {
      setsid();
      for (const int signal : {SIGINT, SIGTERM, SIGHUP}) std::signal(signal, SIG_IGN);
      close(ends[1]);
      char nothing = 0;
      while (read(ends[0], &nothing, 1) < 0 && errno == EINTR) continue;
      alarm(60);
      do {
        std::ifstream left(processes());
        for (pid_t process = 0; left >> process;) kill(process, SIGKILL);
        std::this_thread::yield();
      } while (rmdir(folder_.c_str()) != 0 && errno == EBUSY);
      _exit(0);
    }
    close(ends[0]);
    open_ = ends[1];
  }

  std::string folder_;
  bool version_2_;
  pid_t cleaner_ = -1;
  int open_ = -1;  // the pipe's end that only this process has
};

}  // namespace support
