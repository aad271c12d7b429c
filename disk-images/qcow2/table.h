// SPDX-License-Identifier: Apache-2.0
//
// Entries of the tables of a qcow2 image: L1, L2 (with and without subclusters), refcounts.
//
// An L2 entry is decoded into one shape whatever the image: a cluster without subclusters is a cluster with
// one. So there is one read path and one write path.
//
// Source: QEMU's docs/interop/qcow2.txt, "Cluster mapping" and "Host cluster management".
//
// Thread: any.
#pragma once

#include <cstdint>

#include "disk-images/qcow2/bytes.h"
#include "disk-images/qcow2/header.h"

namespace ringback::image::qcow2 {

inline constexpr uint64_t kOffsetMask = 0x00fffffffffffe00;
inline constexpr uint64_t kCopied = uint64_t{1} << 63;  // refcount is exactly one: may be written in place
inline constexpr uint64_t kCompressed = uint64_t{1} << 62;
inline constexpr uint64_t kZero = 1;

// How entries of this image are to be read.
struct EntryFormat {
    uint32_t cluster_bits;
    bool zero_flag;  // version 3 without subclusters
    bool extended;
    bool data_file;
    uint32_t all;  // a bit for each subcluster

    explicit EntryFormat(const Header& header)
        : cluster_bits(header.cluster_bits),
          zero_flag(header.version >= 3 && !header.extended()),
          extended(header.extended()),
          data_file(header.has_data_file()),
          all(header.extended() ? ~0U : 1U) {}
};

// What an L2 entry says about a cluster of the disk.
struct Cluster {
    bool valid = true;        // false: no image may have such an entry
    bool compressed = false;  // offset and bytes: where the compressed data is
    bool present = false;     // a host cluster belongs to it, at offset
    bool copied = false;
    uint64_t offset = 0;
    uint32_t bytes = 0;      // compressed data, with what follows up to the end of its last sector
    uint32_t allocated = 0;  // subclusters with data in the host cluster
    uint32_t zeros = 0;      // subclusters that read as zeros; neither: the backing file has them
};

[[nodiscard]] inline Cluster decode(const std::byte* at, const EntryFormat& format) {
    const uint64_t entry = get64(at);
    const uint64_t bitmap = format.extended ? get64(at + 8) : 0;
    Cluster cluster;
    if ((entry & kCompressed) != 0) {
        const uint32_t shift = 62 - (format.cluster_bits - 8);
        cluster.compressed = true;
        cluster.offset = entry & ((uint64_t{1} << shift) - 1);
        const uint64_t sectors = ((entry & (kCompressed - 1)) >> shift) + 1;
        cluster.bytes = static_cast<uint32_t>(sectors * 512 - cluster.offset % 512);
        cluster.valid = !format.data_file && bitmap == 0 && cluster.offset != 0;
        return cluster;
    }
    cluster.offset = entry & kOffsetMask;
    cluster.copied = (entry & kCopied) != 0;
    cluster.present = cluster.offset != 0 || (format.data_file && cluster.copied);
    cluster.valid = (cluster.offset & ((uint64_t{1} << format.cluster_bits) - 1)) == 0;
    if (format.extended) {
        cluster.allocated = static_cast<uint32_t>(bitmap);
        cluster.zeros = static_cast<uint32_t>(bitmap >> 32);
        cluster.valid = cluster.valid && (cluster.allocated & cluster.zeros) == 0 &&
                        (cluster.present || cluster.allocated == 0);
    } else if (format.zero_flag && (entry & kZero) != 0) {
        cluster.zeros = 1;
    } else {
        cluster.allocated = cluster.present ? 1 : 0;
    }
    return cluster;
}

// Of what decode() calls present, or of nothing. Compressed clusters are not written.
inline void encode(std::byte* at, const Cluster& cluster, const EntryFormat& format) {
    uint64_t entry = cluster.present ? cluster.offset | (cluster.copied ? kCopied : 0) : 0;
    if (format.extended) {
        put64(at + 8, uint64_t{cluster.zeros} << 32 | cluster.allocated);
    } else if (cluster.zeros != 0) {
        entry |= kZero;
    }
    put64(at, entry);
}

// Refcounts are 2^order bits wide; below a byte the first is in the low bits.
[[nodiscard]] inline uint64_t get_refcount(const std::byte* block, uint64_t index, uint32_t order) {
    switch (order) {
        case 6:
            return get64(block + index * 8);
        case 5:
            return get32(block + index * 4);
        case 4:
            return get16(block + index * 2);
        case 3:
            return static_cast<uint64_t>(block[index]);
        default: {
            const uint32_t bits = 1U << order;
            const auto byte = static_cast<unsigned>(block[index * bits / 8]);
            return (byte >> (index * bits % 8)) & ((1U << bits) - 1);
        }
    }
}
inline void put_refcount(std::byte* block, uint64_t index, uint32_t order, uint64_t value) {
    switch (order) {
        case 6:
            return put64(block + index * 8, value);
        case 5:
            return put32(block + index * 4, static_cast<uint32_t>(value));
        case 4:
            return put16(block + index * 2, static_cast<uint16_t>(value));
        case 3:
            block[index] = static_cast<std::byte>(value);
            return;
        default: {
            const uint32_t bits = 1U << order;
            const auto shift = static_cast<uint32_t>(index * bits % 8);
            const unsigned mask = ((1U << bits) - 1) << shift;
            std::byte& byte = block[index * bits / 8];
            byte = (byte & static_cast<std::byte>(~mask)) | static_cast<std::byte>(value << shift);
        }
    }
}
[[nodiscard]] inline uint64_t largest_refcount(uint32_t order) {
    return order == 6 ? ~uint64_t{0} : (uint64_t{1} << (1U << order)) - 1;
}

}  // namespace ringback::image::qcow2
