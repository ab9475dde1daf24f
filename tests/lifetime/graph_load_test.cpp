// A graph of a thousand copies, launched again and again while other threads borrow, write and drop its buffers: no
// payload is ever torn, and none is stale. THOLE_LAUNCHES says how often; not set, 10,000 times on a GPU, and on the
// simulated device, which takes a minute for that, a twentieth of it.

#include <random>
#include <vector>

#include "../support/rig.hpp"

using namespace support;

namespace {

using Word = std::uint32_t;
constexpr std::size_t copies = 1'000;
constexpr std::size_t words = 64;

/// Goes to the device and back in each launch. The words of each buffer are one number.
struct Slot {
  PinnedBuffer<Word> in, out;
  DeviceBuffer<Word> memory;
  Word written = 0;  // the last number in `in`
};

bool uniform(const Borrow<Word>& borrow) {
  return std::ranges::all_of(borrow, [&](Word word) { return word == borrow[0]; });
}

/// Borrows and drops at random what is its own, until it is stopped. Returns what was wrong.
std::string disturb(std::vector<Slot*> slots, std::uint64_t seed, const std::atomic<int>& launches,
                    const std::atomic<bool>& stop) {
  std::mt19937_64 random(seed);
  for (int seen = -1; !stop;) {
    Slot& slot = *slots[random() % slots.size()];
    switch (random() % 8) {
      case 0:  // handles go, the graph goes on
        if (random() % 64 == 0) (random() % 2 == 0 ? slot.in : slot.out) = {};
        break;
      case 1:
        if (auto borrow = slot.in.try_borrow_mut(); borrow && !borrow->empty()) {
          ++slot.written;
          for (Word& word : *borrow) word = slot.written;
        }
        break;
      case 2:
        if (auto borrow = slot.in.try_borrow(); borrow && !borrow->empty() && (*borrow)[words - 1] != slot.written)
          return "a source was changed";
        break;
      case 3:
        if (auto borrow = slot.out.try_borrow_for(forever); borrow && !borrow->empty()) {
          if (!uniform(*borrow)) return "a torn payload";
          if ((*borrow)[0] > slot.written) return "a payload of later";
        }
        break;
      default:  // lets a launch pass
        until([&] { return stop || launches.load() != seen; });
        seen = launches;
    }
  }
  return {};
}

int launches_on(const Rig& rig) {
  if (const char* const asked = std::getenv("THOLE_LAUNCHES")) return std::atoi(asked);
  return rig.simulated() ? 500 : 10'000;
}

void launch_while_others_disturb(const CaptureOptions& options) {
  const Rig rig(std::getenv("THOLE_DEVICE") != nullptr ? running_under_test() : Device::simulated(),
                {.bytes = 4 * MiB});
  const Stream stream(rig.device);
  std::vector<Slot> slots(copies / 2);
  for (Slot& slot : slots) {
    slot.in = rig.heap.make_buffer<Word>(words, 0);
    slot.out = rig.heap.make_buffer<Word>(words, 0);
    slot.memory = DeviceBuffer<Word>(stream, words);
  }
  auto exec = capture(
                  stream,
                  [&] {
                    for (Slot& slot : slots) {
                      slot.in.async_to_device(stream, slot.memory.span());
                      slot.out.async_from_device(stream, slot.memory.span());
                    }
                  },
                  options)
                  .instantiate();
  constexpr std::size_t threads = 3;
  const int launches_wanted = launches_on(rig);
  std::atomic<int> launches{0};
  std::atomic<bool> stop{false};
  std::vector<std::thread> others;
  std::vector<std::string> wrong(threads);
  for (std::size_t t = 0; t != threads; ++t) {
    std::vector<Slot*> own;
    for (std::size_t i = t; i < slots.size(); i += threads) own.push_back(&slots[i]);
    others.emplace_back([&, t, own] { wrong[t] = disturb(own, t, launches, stop); });
  }
  while (launches != launches_wanted) {
    if (const auto launched = exec.try_launch(stream); launched)
      ++launches;
    else
      CHECK(static_cast<int>(launched.error().errc()) == static_cast<int>(Errc::borrowed));
  }
  stop = true;
  for (auto& thread : others) thread.join();
  for (const auto& what : wrong) CHECK(what == "");
  exec.launch(stream);  // all that is still there has come through now
  for (Slot& slot : slots)
    if (!slot.in.empty() && !slot.out.empty()) CHECK(slot.out.borrow()[words - 1] == slot.written);
}

}  // namespace

TEST_CASE("a graph of a thousand copies stays right while threads borrow, write and drop its buffers") {
  launch_while_others_disturb({});
}

TEST_CASE("the same where each write is waited for by itself") {
  launch_while_others_disturb({.completion = each_write});
}
