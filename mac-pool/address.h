// SPDX-License-Identifier: Apache-2.0
//
// Mac: a 48-bit address as a number, so that ranges, ranks and permutations of addresses are arithmetic.
//
// One written form only, six pairs of hex digits with colons, because that is the one form that xl takes.
// What else is in use (dashes, Cisco's dots, bare digits) is refused and not guessed: a misread address is
// given to a guest for ever.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "runtime/result.h"

namespace ringback::mac {

struct Mac {
    uint64_t value = 0;  // the first octet on the wire is the highest

    auto operator<=>(const Mac&) const = default;
    [[nodiscard]] std::string text() const;
    // The sender's first bit on the wire is the lowest of the first octet.
    [[nodiscard]] bool multicast() const { return (value >> 40 & 1) != 0; }
    [[nodiscard]] bool zero() const { return value == 0; }
};

// Any address; EINVAL with the offending text for anything else.
[[nodiscard]] Result<Mac> parse_mac(std::string_view text);
// An address that a guest may have: neither multicast (broadcast is) nor all zero.
[[nodiscard]] Result<Mac> parse_unicast(std::string_view text);

}  // namespace ringback::mac
