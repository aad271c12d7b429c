// SPDX-License-Identifier: Apache-2.0
#include "mac-pool/space.h"

#include <fmt/format.h>

#include <algorithm>

namespace ringback::mac {

namespace {

constexpr size_t kMacLength = 17;

Result<Range> parse_prefix(std::string_view text) {
    std::string low(text);
    std::string high(text);
    while (low.size() < kMacLength) {
        low += ":00";
        high += ":ff";
    }
    const auto first = parse_mac(low);
    const auto last = parse_mac(high);
    if (!first.ok() || !last.ok()) {
        return Error{
            EINVAL,
            fmt::format("'{}' is not a range: FIRST-LAST, one MAC address, or its first octets (00:16:3e)",
                        text)};
    }
    return Range{first.value(), last.value()};
}

Result<void> check_apart(const std::vector<Range>& sorted, const char* what) {
    for (size_t index = 1; index < sorted.size(); ++index) {
        if (sorted[index].first <= sorted[index - 1].last) {
            return Error{EINVAL, fmt::format("{} {} and {} overlap", what, sorted[index - 1].text(),
                                             sorted[index].text())};
        }
    }
    return {};
}

}  // namespace

std::string Range::text() const {
    return first == last ? first.text() : first.text() + "-" + last.text();
}

Result<Range> parse_range(std::string_view text) {
    const size_t dash = text.find('-');
    Range range;
    if (dash == std::string_view::npos) {
        range = TRY(parse_prefix(text));
    } else {
        const auto first = parse_mac(text.substr(0, dash));
        if (!first.ok()) return Error{EINVAL, fmt::format("range '{}': {}", text, first.error().message)};
        const auto last = parse_mac(text.substr(dash + 1));
        if (!last.ok()) return Error{EINVAL, fmt::format("range '{}': {}", text, last.error().message)};
        range = {first.value(), last.value()};
    }
    if (range.last < range.first) return Error{EINVAL, fmt::format("range '{}' runs backwards", text)};
    if (range.first.zero()) return Error{EINVAL, fmt::format("range '{}' holds the all-zero address", text)};
    // Of two neighbouring first octets one is multicast.
    if (range.first.multicast() || range.last.value >> 40 != range.first.value >> 40) {
        return Error{EINVAL, fmt::format("range '{}' holds multicast addresses", text)};
    }
    return range;
}

Result<Space> Space::make(std::vector<Range> ranges, std::vector<Range> exclusions) {
    std::ranges::sort(ranges);
    std::ranges::sort(exclusions);
    TRY(check_apart(ranges, "ranges"));
    TRY(check_apart(exclusions, "exclusions"));
    Space space;
    std::vector<bool> used(exclusions.size());
    const auto add = [&](uint64_t first, uint64_t last) {
        space.segments_.push_back({{Mac{first}, Mac{last}}, space.size_});
        space.size_ += last - first + 1;
    };
    for (const Range& range : ranges) {
        uint64_t next = range.first.value;
        for (size_t index = 0; index < exclusions.size(); ++index) {
            const Range& out = exclusions[index];
            if (out.last < range.first || range.last < out.first) continue;
            used[index] = true;
            if (out.first.value > next) add(next, out.first.value - 1);
            next = out.last.value + 1;
        }
        if (next <= range.last.value) add(next, range.last.value);
    }
    for (size_t index = 0; index < exclusions.size(); ++index) {
        if (!used[index])
            return Error{EINVAL,
                         fmt::format("exclusion {} is in none of the ranges", exclusions[index].text())};
    }
    if (space.size_ == 0) return Error{EINVAL, "the ranges without the exclusions hold no address"};
    return space;
}

Mac Space::at(uint64_t rank) const {
    INVARIANT(rank < size_);
    const auto after = std::ranges::upper_bound(segments_, rank, {}, &Segment::before);
    const Segment& segment = *std::prev(after);
    return Mac{segment.range.first.value + (rank - segment.before)};
}

std::optional<uint64_t> Space::rank(Mac mac) const {
    const auto after =
        std::ranges::upper_bound(segments_, mac, {}, [](const Segment& s) { return s.range.first; });
    if (after == segments_.begin()) return std::nullopt;
    const Segment& segment = *std::prev(after);
    if (segment.range.last < mac) return std::nullopt;
    return segment.before + (mac.value - segment.range.first.value);
}

}  // namespace ringback::mac
