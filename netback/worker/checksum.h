// SPDX-License-Identifier: Apache-2.0
//
// The Internet checksum (RFC 1071) and reading packets in network byte order. Positions are the caller's to check.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "netback/worker/offload.h"

namespace ringback::net::worker {

inline uint8_t byte_at(std::span<const std::byte> packet, size_t at) { return static_cast<uint8_t>(packet[at]); }
inline uint16_t word_at(std::span<const std::byte> packet, size_t at) {
    return static_cast<uint16_t>(byte_at(packet, at) << 8 | byte_at(packet, at + 1));
}
inline void put_word(std::span<std::byte> packet, size_t at, uint16_t value) {
    packet[at] = static_cast<std::byte>(value >> 8);
    packet[at + 1] = static_cast<std::byte>(value & 0xff);
}

inline uint16_t fold(uint64_t sum) {
    while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<uint16_t>(sum);
}

// The sum of big-endian words; an odd last byte counts as the high one.
inline uint64_t sum_words(std::span<const std::byte> bytes) {
    uint64_t sum = 0;
    size_t at = 0;
    // Four bytes at a time: one's complement sums do not mind where the words begin, as long as it is even.
    for (; at + 4 <= bytes.size(); at += 4) {
        uint32_t value = 0;
        std::memcpy(&value, bytes.data() + at, sizeof value);
        sum += __builtin_bswap32(value);
    }
    for (; at + 2 <= bytes.size(); at += 2) sum += word_at(bytes, at);
    if (at < bytes.size()) sum += static_cast<uint64_t>(byte_at(bytes, at)) << 8;
    return sum;
}

// Of the TCP or UDP packet that these layers are of; `length`: of its header and data.
inline uint16_t pseudo_sum(std::span<const std::byte> packet, const Layers& layers, size_t length) {
    const size_t addresses = layers.v6 ? layers.network + 8U : layers.network + 12U;
    const uint64_t protocol = layers.tcp ? 6 : 17;
    return fold(sum_words(packet.subspan(addresses, layers.v6 ? 32 : 8)) + protocol + (length >> 16) +
                (length & 0xffff));
}

}  // namespace ringback::net::worker
