// What a stream's blocks that wait cost, counted in looks at their positions.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include <doctest/doctest.h>

#include "streams/waiting_blocks.hpp"

using namespace thole;

namespace {

std::size_t compared = 0;

struct Position {
  std::uint64_t value = 0;
  friend bool operator<(const Position& a, const Position& b) noexcept {
    ++compared;
    return a.value < b.value;
  }
};

/// What the heap wants of a block.
struct Waiting {
  struct Slot {
    Waiting* first_child = nullptr;
  };
  struct Slots {
    Slot first;
    Slot* get() noexcept { return &first; }
  };
  struct Uses {
    Slots slots;
  };
  Position wait_position;
  Waiting* next = nullptr;
  std::size_t capacity = 1;
  Uses uses;
};

/// Looks that it takes to keep blocks that come in this order, and to take all of them.
std::size_t looks(const std::vector<std::uint64_t>& order) {
  std::vector<Waiting> blocks(order.size());
  detail::BasicWaitingBlocks<Waiting> waiting;
  compared = 0;
  for (std::size_t i = 0; i != order.size(); ++i) {
    blocks[i].wait_position.value = order[i];
    waiting.push(&blocks[i]);
  }
  std::uint64_t expected = 0;
  bool right = true;
  for (; !waiting.empty(); ++expected) {
    right = right && waiting.first_position().value == expected;
    right = right && waiting.pop()->wait_position.value == expected;
  }
  CHECK(right);
  CHECK(expected == order.size());
  return compared;
}

std::vector<std::uint64_t> in_order(std::size_t count) {
  std::vector<std::uint64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  return order;
}

}  // namespace

TEST_CASE("four times as many blocks that wait take four times as many steps, in whatever order they come") {
  constexpr std::size_t few = 16'000, many = 64'000;
  const auto check = [](auto&& arrange) {
    auto small = in_order(few), large = in_order(many);
    arrange(small);
    arrange(large);
    const auto one = looks(small), four = looks(large);
    CHECK(one <= few * 20);
    CHECK(four <= 5 * one);  // a logarithm is a little more than four
  };
  check([](auto&) {});
  check([](auto& order) { std::ranges::reverse(order); });
  check([](auto& order) { std::ranges::shuffle(order, std::mt19937_64(1)); });
  // As two streams' blocks that move on to a third: by turns.
  check([](auto& order) {
    for (std::size_t i = 0, half = order.size() / 2; i != half; ++i) order[i] = 2 * i, order[half + i] = 2 * i + 1;
  });
}

TEST_CASE("blocks that wait for one position come out once each, between others that come and go") {
  std::vector<Waiting> blocks(1000);
  detail::BasicWaitingBlocks<Waiting> waiting;
  std::mt19937_64 chance(2);
  std::vector<bool> in(blocks.size());
  std::size_t inside = 0;
  bool right = true;
  for (int step = 0; step != 20'000; ++step) {
    const std::size_t i = chance() % blocks.size();
    if (!in[i]) {
      blocks[i].wait_position.value = chance() % 50;
      waiting.push(&blocks[i]);
      in[i] = true;
      ++inside;
    }
    if (chance() % 2 == 0) continue;
    const auto first = waiting.first_position().value;
    for (std::size_t other = 0; other != blocks.size(); ++other)
      right = right && (!in[other] || first <= blocks[other].wait_position.value);
    Waiting* const taken = waiting.pop();
    const auto index = static_cast<std::size_t>(taken - blocks.data());
    right = right && in[index] && taken->wait_position.value == first;
    in[index] = false;
    --inside;
  }
  for (; !waiting.empty(); --inside) (void)waiting.pop();
  CHECK(inside == 0);
  CHECK(right);
}
