// SPDX-License-Identifier: Apache-2.0
//
// The block interface as it lies in shared memory (xen/io/blkif.h, xen/io/protocols.h).
//
// A ring entry is a union of a request and a response. On x86 it comes in two layouts that differ only in the alignment
// of 64-bit fields: 8 in a 64-bit guest, 4 in a 32-bit one. "native" is the layout of the machine we run on, which
// is x86_64. The structures are written out twice rather than generated, so that each can be read beside the public
// header, and every offset is asserted.
//
// All sector numbers and first_sector/last_sector are in units of 512 bytes, whatever the storage's block size: it is the
// only unit on which all frontends agree.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ringback::xen::blkif {

enum class Abi : uint8_t { native = 0, x86_32 = 1, x86_64 = 2 };

enum Operation : uint8_t {
    kRead = 0,
    kWrite = 1,
    kWriteBarrier = 2,
    kFlush = 3,
    kReserved = 4,
    kDiscard = 5,
    kIndirect = 6,
};

enum Status : int16_t {
    kOkay = 0,
    kError = -1,
    kNotSupported = -2,
    // Not in the interface, on purpose: a Linux frontend takes kError or kNotSupported on an empty flush as success
    // (and stops flushing); any other value it passes on as an I/O error.
    kFlushFailed = -3,
};

enum InfoBit : uint32_t { kInfoCdrom = 1, kInfoRemovable = 2, kInfoReadOnly = 4 };

inline constexpr uint32_t kSectorSize = 512;
inline constexpr uint32_t kSectorsPerPage = 8;
inline constexpr uint32_t kMaxDirectSegments = 11;
inline constexpr uint32_t kMaxIndirectPages = 8;
inline constexpr uint32_t kSegmentsPerIndirectPage = 512;
inline constexpr uint8_t kDiscardSecure = 1;

struct Segment {
    uint32_t gref;
    uint8_t first_sector;
    uint8_t last_sector;
    uint16_t padding;
};
static_assert(sizeof(Segment) == 8);
static_assert(offsetof(Segment, first_sector) == 4 && offsetof(Segment, last_sector) == 5);

// Both layouts: twelve meaningful bytes at the start of the entry.
inline constexpr size_t kResponseId = 0;
inline constexpr size_t kResponseOperation = 8;
inline constexpr size_t kResponseStatus = 10;

namespace x86_64 {
struct ReadWrite {
    uint8_t operation;
    uint8_t nr_segments;
    uint16_t handle;
    uint64_t id;
    uint64_t sector_number;
    Segment segments[kMaxDirectSegments];
};
struct Discard {
    uint8_t operation;
    uint8_t flag;
    uint64_t id;
    uint64_t sector_number;
    uint64_t nr_sectors;
};
struct Indirect {
    uint8_t operation;
    uint8_t indirect_operation;
    uint16_t nr_segments;
    uint64_t id;
    uint64_t sector_number;
    uint16_t handle;
    uint32_t indirect_grefs[kMaxIndirectPages];
};
struct Other {
    uint8_t operation;
    uint64_t id;
};
inline constexpr size_t kEntrySize = 112;
static_assert(sizeof(ReadWrite) == kEntrySize);
static_assert(offsetof(ReadWrite, nr_segments) == 1 && offsetof(ReadWrite, handle) == 2);
static_assert(offsetof(ReadWrite, id) == 8 && offsetof(ReadWrite, sector_number) == 16);
static_assert(offsetof(ReadWrite, segments) == 24);
static_assert(offsetof(Discard, flag) == 1 && offsetof(Discard, id) == 8);
static_assert(offsetof(Discard, sector_number) == 16 && offsetof(Discard, nr_sectors) == 24);
static_assert(offsetof(Indirect, indirect_operation) == 1 && offsetof(Indirect, nr_segments) == 2);
static_assert(offsetof(Indirect, id) == 8 && offsetof(Indirect, sector_number) == 16);
static_assert(offsetof(Indirect, handle) == 24 && offsetof(Indirect, indirect_grefs) == 28);
static_assert(offsetof(Other, id) == 8);
}  // namespace x86_64

namespace x86_32 {
#pragma pack(push, 4)
struct ReadWrite {
    uint8_t operation;
    uint8_t nr_segments;
    uint16_t handle;
    uint64_t id;
    uint64_t sector_number;
    Segment segments[kMaxDirectSegments];
};
struct Discard {
    uint8_t operation;
    uint8_t flag;
    uint64_t id;
    uint64_t sector_number;
    uint64_t nr_sectors;
};
struct Indirect {
    uint8_t operation;
    uint8_t indirect_operation;
    uint16_t nr_segments;
    uint64_t id;
    uint64_t sector_number;
    uint16_t handle;
    uint32_t indirect_grefs[kMaxIndirectPages];
};
struct Other {
    uint8_t operation;
    uint64_t id;
};
#pragma pack(pop)
inline constexpr size_t kEntrySize = 108;
static_assert(sizeof(ReadWrite) == kEntrySize);
static_assert(offsetof(ReadWrite, nr_segments) == 1 && offsetof(ReadWrite, handle) == 2);
static_assert(offsetof(ReadWrite, id) == 4 && offsetof(ReadWrite, sector_number) == 12);
static_assert(offsetof(ReadWrite, segments) == 20);
static_assert(offsetof(Discard, flag) == 1 && offsetof(Discard, id) == 4);
static_assert(offsetof(Discard, sector_number) == 12 && offsetof(Discard, nr_sectors) == 20);
static_assert(offsetof(Indirect, indirect_operation) == 1 && offsetof(Indirect, nr_segments) == 2);
static_assert(offsetof(Indirect, id) == 4 && offsetof(Indirect, sector_number) == 12);
static_assert(offsetof(Indirect, handle) == 20 && offsetof(Indirect, indirect_grefs) == 24);
static_assert(offsetof(Other, id) == 4);
}  // namespace x86_32

[[nodiscard]] constexpr size_t entry_size(Abi abi) {
    return abi == Abi::x86_32 ? x86_32::kEntrySize : x86_64::kEntrySize;
}

}  // namespace ringback::xen::blkif
