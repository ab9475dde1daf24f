// The limits of machines and containers, read from files that the tests write.

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/limits.hpp"
#include "base/pci.hpp"
#include "fixture.hpp"
#include "system_files.hpp"

using namespace thole::detail;
using memory_test::MiB;
using memory_test::says;
using memory_test::System;

namespace {

MemoryRoom room(const System& system, int node = -1) { return memory_room(node, system.root); }
std::size_t room_mib(const System& system, int node = -1) { return room(system, node).bytes / MiB; }

std::string mib(std::size_t count) { return std::to_string(count * MiB); }

}  // namespace

TEST_CASE("the machine's limit is what it has available") {
  const System system;
  CHECK(room_mib(system) == 8192);
  CHECK(says(room(system).limit, mib(8192)));
}

TEST_CASE("page cache counts as free, on whichever of the kernel's lists it is") {
  const System system;
  system.write("sys/fs/cgroup/memory.max", mib(1024));
  system.write("sys/fs/cgroup/memory.current", mib(900));
  CHECK(room_mib(system) == 124);
  system.write("sys/fs/cgroup/memory.stat", "anon " + mib(100) + "\nfile " + mib(800) + "\nshmem " + mib(50) +
                                                "\ninactive_file " + mib(200) + "\nactive_file " + mib(500) + "\n");
  CHECK(room_mib(system) == 824);
}

TEST_CASE("the high mark of a container is a limit, and of all groups above it the tightest is named") {
  const System system;
  system.write("proc/self/cgroup", "0::/outer/inner\n");
  system.write("sys/fs/cgroup/outer/inner/memory.max", "max");
  system.write("sys/fs/cgroup/outer/inner/memory.high", mib(2048));
  system.write("sys/fs/cgroup/outer/inner/memory.current", mib(48));
  CHECK(room_mib(system) == 2000);
  CHECK(says(room(system).limit, "inner/memory.high is " + mib(2048)));
  system.write("sys/fs/cgroup/outer/memory.max", mib(512));
  system.write("sys/fs/cgroup/outer/memory.current", mib(500));
  CHECK(room_mib(system) == 12);
  CHECK(says(room(system).limit, "outer/memory.max is " + mib(512)));
}

TEST_CASE("a container of version 1 is limited in memory, and in memory and swap together") {
  const System system;
  system.write("proc/self/cgroup", "5:cpu:/a\n4:memory:/a\n");
  const std::string group = "sys/fs/cgroup/memory/a/";
  system.write(group + "memory.limit_in_bytes", mib(4096));
  system.write(group + "memory.usage_in_bytes", mib(3096));
  system.write(group + "memory.stat",
               "active_file 5\ntotal_active_file " + mib(600) + "\ntotal_inactive_file " + mib(400));
  CHECK(room_mib(system) == 2000);
  system.write(group + "memory.memsw.limit_in_bytes", mib(4096));
  system.write(group + "memory.memsw.usage_in_bytes", mib(4000));
  CHECK(room_mib(system) == 1096);
  CHECK(says(room(system).limit, "memsw"));
  for (const char* file : {"memory.limit_in_bytes", "memory.memsw.limit_in_bytes"})
    system.write(group + file, "9223372036854771712");  // there is none
  CHECK(room_mib(system) == 8192);
}

TEST_CASE("memory that is to lie on a NUMA node is limited by what that node has free") {
  const System system;
  system.write("sys/devices/system/node/node1/meminfo",
               "Node 1 MemTotal: " + std::to_string(640 * 1024) + " kB\nNode 1 MemFree: " + std::to_string(100 * 1024) +
                   " kB\nNode 1 Active(file): " + std::to_string(60 * 1024) +
                   " kB\nNode 1 Inactive(file): " + std::to_string(50 * 1024) + " kB\nNode 1 Active: 99999999 kB\n");
  CHECK(room_mib(system) == 8192);
  CHECK(room_mib(system, 1) == 200);  // a sixty-fourth is the kernel's
  CHECK(says(room(system, 1).limit, "NUMA node 1"));
  CHECK(numa_node_exists(1, system.root));
  CHECK_FALSE(numa_node_exists(0, system.root));
}

TEST_CASE("a GPU's NUMA node is what the system says of its place on the bus") {
  const System system;
  system.write("sys/bus/pci/devices/0000:c1:00.0/numa_node", "1\n");
  system.write("sys/bus/pci/devices/0000:c2:00.0/numa_node", "-1\n");
  CHECK(numa_node_of_pci_device("0000:C1:00.0", system.root) == 1);
  CHECK(numa_node_of_pci_device("0000:C2:00.0", system.root) == -1);
  CHECK(numa_node_of_pci_device("0000:C3:00.0", system.root) == -1);
}

TEST_CASE("what one thread is about to touch is not there for another, which looks again when it is touched") {
  const System system;
  system.available(1024);
  std::atomic<bool> done{false};
  std::atomic<bool> granted{false};
  std::string limit;
  std::thread other;
  {
    const MemoryReservation mine(600 * MiB, -1, system.root);
    REQUIRE(mine.granted());
    other = std::thread([&] {
      const MemoryReservation wanted(600 * MiB, -1, system.root);
      granted = wanted.granted();
      limit = wanted.limit();
      done = true;
    });
    while (!done && MemoryReservation::waiting() == 0) std::this_thread::yield();
    CHECK_FALSE(done);
    system.available(424);  // as touching makes it
  }
  other.join();
  CHECK_FALSE(granted);
  CHECK(says(limit, mib(424)));
}

TEST_CASE("of eight threads that pin at once, as many get memory as there is memory for") {
  const System system;
  system.available(1000);
  std::mutex mutex;
  std::size_t left = 1000;
  std::atomic<unsigned> granted{0}, touched{0}, refused{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&] {
      const MemoryReservation mine(300 * MiB, -1, system.root);
      if (!mine.granted()) {
        ++refused;
        return;
      }
      ++granted;
      // All have asked before the first has touched anything.
      while (granted + MemoryReservation::waiting() + refused < 8 && touched == 0) std::this_thread::yield();
      const std::lock_guard lock(mutex);
      system.available(left -= std::min<std::size_t>(left, 302));  // page tables and all
      ++touched;
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(granted == 3);
  CHECK(refused == 5);
}

TEST_CASE("the bookkeeping of pinned pages counts as memory, and some is left to the program") {
  const System system;
  system.available(1024 + spare_memory / MiB);
  {
    const MemoryReservation too_much(1024 * MiB, -1, system.root);
    CHECK_FALSE(too_much.granted());
    CHECK(says(too_much.limit(), "4194304 bytes (4 MiB) are spared"));
  }
  CHECK(MemoryReservation(1020 * MiB, -1, system.root).granted());
  system.available(1024);
  CHECK_FALSE(MemoryReservation(1020 * MiB, -1, system.root).granted());
}
