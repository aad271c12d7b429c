// SPDX-License-Identifier: Apache-2.0
//
// The IP filter: whether a frame claims only addresses that its guest was given (xl's `ip=`).
//
// Checked are the source of IPv4 and IPv6, the sender of ARP (both its addresses), and the target of a neighbour
// advertisement. Without an address of its own a host may still say what it has to say to get one: DHCP from 0.0.0.0, ARP
// probes, duplicate address detection from ::, and link-local IPv6. Anything that is neither IP nor ARP is refused: what it
// claims cannot be known.
//
// Pure functions on private memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "bridge/link.h"
#include "runtime/result.h"

namespace ringback::bridge {

struct IpNetwork {
    std::array<uint8_t, 16> address{};  // IPv4: the first four
    uint8_t v6 = 0;
    uint8_t bits = 0;
    bool operator==(const IpNetwork&) const = default;
};

// "192.0.2.1", "192.0.2.0/24", "2001:db8::1/64"; several with spaces between them.
[[nodiscard]] Result<std::vector<IpNetwork>> parse_networks(const std::string& text);

// `frame` as far as it is known; what is behind the Ethernet header (and its tag) begins at `network` and is of this type.
[[nodiscard]] bool source_allowed(std::span<const std::byte> frame, size_t network, uint16_t type, const MacAddress& own,
                                  std::span<const IpNetwork> given);

}  // namespace ringback::bridge
