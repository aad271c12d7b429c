// SPDX-License-Identifier: Apache-2.0
//
// The IP filter: whether a frame claims only addresses that its guest was given (xl's `ip=`).
//
// Checked are the source of IPv4 and IPv6, the sender of ARP (both its addresses), and of neighbour discovery (RFC 4861) the
// target of an advertisement and every link-layer address. Without an address of its own a host may still say what it has to
// say to get one: DHCP from 0.0.0.0; from :: router solicitations and multicast listener reports; ARP probes and duplicate
// address detection for what it was given (for an address of somebody else they would keep that from being taken). Link-local
// IPv6 passes: a host makes those up. So nothing else may hang on one: routers are recognised by them, and a guest does not
// say that it is one (RFC 6105), nor that there is a better one. Anything that is neither IP nor ARP is refused: what it claims
// cannot be known.
//
// Neighbour discovery is found behind extension headers too. It is never in fragments (RFC 6980), and the first fragment of
// anything has all headers (RFC 7112), so what ends before its headers do is refused.
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
