#pragma once

// The retired blocks of one stream, the one that waits for the earliest position first: a pairing heap whose links lie
// in the blocks and in their first slots, so that retiring allocates nothing. Blocks arrive nearly in order, which
// costs some steps each; any other order costs a logarithm.

#include <cstddef>
#include <utility>

#include "blocks/block.hpp"

namespace thole::inline v0_1::detail {

/// Not synchronised: the stream's mutex guards it. A template, so that a test can count what its blocks are asked.
template <class Waiting>
class BasicWaitingBlocks {
 public:
  bool empty() const noexcept { return root_ == nullptr; }
  /// The earliest position that a block waits for; only where there is one.
  auto first_position() const noexcept { return root_->wait_position; }
  /// The size of a block that waits for it.
  std::size_t first_bytes() const noexcept { return root_->capacity; }
  void push(Waiting* block) noexcept {
    first_child(block) = nullptr;
    block->next = nullptr;
    root_ = root_ == nullptr ? block : join(root_, block);
  }
  /// Takes a block that waits for first_position().
  Waiting* pop() noexcept {
    Waiting* const block = root_;
    root_ = join_all(first_child(block));
    block->next = nullptr;
    return block;
  }

 private:
  /// A block that waits has a use, and so a slot.
  static Waiting*& first_child(Waiting* block) noexcept { return block->uses.slots.get()->first_child; }
  // `next` links the children of one block.
  static Waiting* join(Waiting* a, Waiting* b) noexcept {
    if (b->wait_position < a->wait_position) std::swap(a, b);
    b->next = first_child(a);
    first_child(a) = b;
    return a;
  }
  /// Joins the children pairwise, and then all pairs: the two passes that give the heap its bound.
  static Waiting* join_all(Waiting* child) noexcept {
    Waiting* pairs = nullptr;
    while (child != nullptr) {
      Waiting* const first = child;
      Waiting* const second = first->next;
      child = second != nullptr ? second->next : nullptr;
      Waiting* const joined = second != nullptr ? join(first, second) : first;
      joined->next = pairs;
      pairs = joined;
    }
    Waiting* root = nullptr;
    while (pairs != nullptr) {
      Waiting* const following = pairs->next;
      pairs->next = nullptr;
      root = root == nullptr ? pairs : join(root, pairs);
      pairs = following;
    }
    return root;
  }

  Waiting* root_ = nullptr;
};

using WaitingBlocks = BasicWaitingBlocks<Block>;

}  // namespace thole::inline v0_1::detail
