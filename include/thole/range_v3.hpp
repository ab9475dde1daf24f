#pragma once

// Opt-in, for programs with range-v3: piping a temporary borrow into range-v3's views: `buf.borrow() |
// ranges::views::chunk(n)`. Its views refuse temporaries that are no views, so the borrow is moved into one that shares
// it; the memory lives as long as what the pipe made. std's views take a temporary borrow as it is. No header of
// range-v3 is needed here: its names are only declared.

#include <cstddef>
#include <memory>
#include <utility>

#include <thole/borrow.hpp>

namespace ranges {
struct view_base;
namespace views {
template <class Function>
struct view_closure;
}
}  // namespace ranges

namespace thole::inline v0_1::detail {

/// A view over the elements of a borrow that its copies share; the last to go ends the borrow.
template <class Borrow, class ViewBase>
class BorrowView : public ViewBase {
 public:
  BorrowView() = default;
  explicit BorrowView(Borrow&& borrow) : borrow_(std::make_shared<Borrow>(std::move(borrow))) {}
  auto* begin() const noexcept { return borrow_ ? borrow_->begin() : nullptr; }
  auto* end() const noexcept { return borrow_ ? borrow_->end() : nullptr; }
  std::size_t size() const noexcept { return borrow_ ? borrow_->size() : 0; }

 private:
  std::shared_ptr<Borrow> borrow_;
};

template <class T, class Function>
auto operator|(BasicBorrow<T>&& borrow, ranges::views::view_closure<Function> closure) {
  return BorrowView<BasicBorrow<T>, ranges::view_base>(std::move(borrow)) | std::move(closure);
}

}  // namespace thole::inline v0_1::detail
