// SPDX-License-Identifier: Apache-2.0
//
// Numbers in an image are big-endian and lie anywhere.
#pragma once

#include <endian.h>

#include <cstdint>
#include <cstring>
#include <span>

namespace ringback::image::qcow2 {

inline uint16_t get16(const std::byte* at) {
    uint16_t value = 0;
    std::memcpy(&value, at, sizeof value);
    return be16toh(value);
}
inline uint32_t get32(const std::byte* at) {
    uint32_t value = 0;
    std::memcpy(&value, at, sizeof value);
    return be32toh(value);
}
inline uint64_t get64(const std::byte* at) {
    uint64_t value = 0;
    std::memcpy(&value, at, sizeof value);
    return be64toh(value);
}
inline void put16(std::byte* at, uint16_t value) {
    value = htobe16(value);
    std::memcpy(at, &value, sizeof value);
}
inline void put32(std::byte* at, uint32_t value) {
    value = htobe32(value);
    std::memcpy(at, &value, sizeof value);
}
inline void put64(std::byte* at, uint64_t value) {
    value = htobe64(value);
    std::memcpy(at, &value, sizeof value);
}

}  // namespace ringback::image::qcow2
