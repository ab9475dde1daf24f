#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "memory/store.hpp"

namespace thole::inline v0_1::detail {

/// What is written above the picture.
struct PictureText {
  std::string title;
  std::string totals;
};

/// An arena as a picture: addresses from left to right and downwards, blocks coloured by state; what is known of each
/// is shown where the mouse points at it. Throws std::bad_alloc.
void draw_svg(const std::vector<StoreSpan>& spans, const PictureText& text, std::ostream& out);

}  // namespace thole::inline v0_1::detail
