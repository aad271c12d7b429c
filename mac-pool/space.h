// SPDX-License-Identifier: Apache-2.0
//
// Space: the addresses of a pool, numbered from 0 without a gap.
//
// A pool is some ranges minus some exclusions. Cutting the exclusions out here, once, is what makes them free
// later: the permutation runs over ranks, so an allocation never meets an excluded address and has nothing to
// skip.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mac-pool/address.h"

namespace ringback::mac {

struct Range {
    Mac first;
    Mac last;  // inclusive

    auto operator<=>(const Range&) const = default;
    [[nodiscard]] uint64_t size() const { return last.value - first.value + 1; }
    [[nodiscard]] std::string text() const;
};

// "FIRST-LAST", one address, or the first one to five octets ("00:16:3e"). Refused with the offending text:
// what runs backwards, and what holds multicast addresses or the all-zero one.
[[nodiscard]] Result<Range> parse_range(std::string_view text);

class Space {
  public:
    // Refused with the offending text: ranges that overlap, exclusions that overlap or touch no range,
    // nothing left.
    [[nodiscard]] static Result<Space> make(std::vector<Range> ranges, std::vector<Range> exclusions);

    [[nodiscard]] uint64_t size() const { return size_; }
    [[nodiscard]] Mac at(uint64_t rank) const;
    // nullopt: not an address of the pool.
    [[nodiscard]] std::optional<uint64_t> rank(Mac mac) const;

  private:
    struct Segment {
        Range range;
        uint64_t before;  // addresses in the segments before this one
    };
    std::vector<Segment> segments_;  // ascending, apart from each other
    uint64_t size_ = 0;
};

}  // namespace ringback::mac
