#pragma once

// A machine, or a container, whose figures a test writes.

#include <doctest/doctest.h>
#include <stdlib.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <string>

namespace memory_test {

/// A folder that has a /proc and a /sys of its own.
class System {
 public:
  System() {
    std::string name = (std::filesystem::temp_directory_path() / "thole-limits-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    root = name;
    available(8192);
    write("proc/self/cgroup", "0::/\n");
  }
  ~System() { std::filesystem::remove_all(root); }
  System(const System&) = delete;
  System& operator=(const System&) = delete;

  void write(const std::string& file, const std::string& text) const {
    std::filesystem::create_directories((root / file).parent_path());
    std::ofstream(root / "new") << text;
    std::filesystem::rename(root / "new", root / file);  // readers find the old file or the new one
  }
  void available(std::size_t mib) const {
    write("proc/meminfo",
          "MemTotal: 99999999 kB\nMemFree: 1 kB\nMemAvailable: " + std::to_string(mib * 1024) + " kB\n");
  }

  std::filesystem::path root;
};

inline bool says(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace memory_test
