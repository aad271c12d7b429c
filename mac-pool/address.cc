// SPDX-License-Identifier: Apache-2.0
#include "mac-pool/address.h"

#include <fmt/format.h>

namespace ringback::mac {

namespace {

constexpr size_t kLength = 17;  // xx:xx:xx:xx:xx:xx

int digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

}  // namespace

std::string Mac::text() const {
    return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", value >> 40 & 0xff, value >> 32 & 0xff,
                       value >> 24 & 0xff, value >> 16 & 0xff, value >> 8 & 0xff, value & 0xff);
}

Result<Mac> parse_mac(std::string_view text) {
    const auto refuse = [&] {
        return Error{EINVAL, fmt::format("'{}' is not a MAC address of the form 00:16:3e:12:34:56", text)};
    };
    if (text.size() != kLength) return refuse();
    uint64_t value = 0;
    for (size_t at = 0; at < kLength; ++at) {
        if (at % 3 == 2) {
            if (text[at] != ':') return refuse();
            continue;
        }
        const int nibble = digit(text[at]);
        if (nibble < 0) return refuse();
        value = value << 4 | static_cast<uint64_t>(nibble);
    }
    return Mac{value};
}

Result<Mac> parse_unicast(std::string_view text) {
    const Mac mac = TRY(parse_mac(text));
    if (mac.zero())
        return Error{EINVAL, fmt::format("'{}' is the all-zero address, which no NIC may have", text)};
    if (mac.multicast())
        return Error{EINVAL, fmt::format("'{}' is a multicast address, which no NIC may have", text)};
    return mac;
}

}  // namespace ringback::mac
