#pragma once

#include <iosfwd>
#include <vector>

#include "memory/store.hpp"

namespace thole::detail {

/// An arena as a picture: one row for each stretch of addresses, blocks coloured by state.
void draw_svg(const std::vector<StoreSpan>& spans, std::ostream& out);

}  // namespace thole::detail
