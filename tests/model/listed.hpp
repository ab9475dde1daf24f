#pragma once

// Entries of one use, as thole's functions take them.

#include <variant>

#include "program.hpp"

namespace model {

/// A buffer that is to be listed, while it is there.
struct Choice {
  HostBuffer* host = nullptr;
  DeviceMemory* device = nullptr;
};
using Listed = std::variant<thole::detail::Listed<const Word*>, thole::detail::Listed<Word*>>;

inline bool whole(const Entry& entry) { return entry.count == entry.memory->count; }

inline Listed listed(const Choice& choice, const Entry& entry) {
  if (choice.host != nullptr && entry.writes) return thole::writes(choice.host->buffer);
  if (choice.host != nullptr) return thole::reads(choice.host->buffer);
  auto& buffer = choice.device->buffer;
  if (whole(entry)) return entry.writes ? Listed(thole::writes(buffer)) : Listed(thole::reads(buffer));
  const auto span = buffer.span().subspan(entry.offset, entry.count);
  return entry.writes ? Listed(thole::writes(span)) : Listed(thole::reads(span));
}

inline void add(thole::UseList& list, const Choice& choice, const Entry& entry) {
  if (choice.host != nullptr) return entry.writes ? list.writes(choice.host->buffer) : list.reads(choice.host->buffer);
  const auto span = choice.device->buffer.span().subspan(entry.offset, entry.count);
  return entry.writes ? list.writes(span) : list.reads(span);
}

}  // namespace model
