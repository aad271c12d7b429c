// SPDX-License-Identifier: Apache-2.0
#include "blkback/worker/request.h"

#include <algorithm>
#include <cstring>
#include <iterator>

namespace ringback::blk::worker {

using namespace xen::blkif;

namespace {

template <typename T>
T as(const std::byte* raw) {
    T value;
    std::memcpy(&value, raw, sizeof value);
    return value;
}

template <typename ReadWrite, typename Discard, typename Indirect, typename Other>
void decode_layout(const std::byte* raw, StoredRequest& request) {
    request.operation = static_cast<uint8_t>(raw[0]);
    request.indirect = 0;
    request.nr_segments = 0;
    request.discard_flag = 0;
    request.sector = 0;
    switch (request.operation) {
        case kRead:
        case kWrite:
        case kWriteBarrier:
        case kFlush: {
            const auto entry = as<ReadWrite>(raw);
            request.nr_segments = entry.nr_segments;
            request.id = entry.id;
            request.sector = entry.sector_number;
            // More than fit are refused by check_request.
            std::copy_n(std::begin(entry.segments), std::min<size_t>(entry.nr_segments, kMaxDirectSegments),
                        request.segments.begin());
            break;
        }
        case kDiscard: {
            const auto entry = as<Discard>(raw);
            request.discard_flag = entry.flag;
            request.id = entry.id;
            request.sector = entry.sector_number;
            request.nr_sectors = entry.nr_sectors;
            break;
        }
        case kIndirect: {
            const auto entry = as<Indirect>(raw);
            request.operation = entry.indirect_operation;
            request.indirect = 1;
            request.nr_segments = entry.nr_segments;
            request.id = entry.id;
            request.sector = entry.sector_number;
            std::copy(std::begin(entry.indirect_grefs), std::end(entry.indirect_grefs),
                      request.indirect_grefs.begin());
            break;
        }
        default: request.id = as<Other>(raw).id;
    }
}

bool in_range(uint64_t sector, uint64_t count, const DiskLimits& limits) {
    return sector <= limits.sectors && count <= limits.sectors - sector;
}

}  // namespace

void decode(Abi abi, const std::byte* raw, StoredRequest& request) {
    if (abi == Abi::x86_32) {
        decode_layout<x86_32::ReadWrite, x86_32::Discard, x86_32::Indirect, x86_32::Other>(raw, request);
    } else {
        decode_layout<x86_64::ReadWrite, x86_64::Discard, x86_64::Indirect, x86_64::Other>(raw, request);
    }
}

std::optional<Status> check_request(const StoredRequest& request, const DiskLimits& limits) {
    switch (request.operation) {
        case kRead: break;
        case kWrite:
        case kWriteBarrier:
            if (!limits.writable) return kError;
            break;
        case kFlush:
            if (request.indirect) return kError;
            if (request.nr_segments > 0 && !limits.writable) return kError;
            break;
        case kDiscard:
            if (request.indirect || !limits.writable) return kError;
            if (!limits.discard || (request.discard_flag & kDiscardSecure) != 0) return kNotSupported;
            if (!in_range(request.sector, request.nr_sectors, limits)) return kError;
            return std::nullopt;
        default: return kNotSupported;
    }
    if (request.indirect) {
        // A barrier or flush is never indirect; an indirect request without segments is none.
        if (request.operation != kRead && request.operation != kWrite) return kError;
        if (request.nr_segments == 0 || request.nr_segments > kMaxSegments) return kError;
        return std::nullopt;
    }
    if (request.nr_segments > kMaxDirectSegments) return kError;
    const bool may_be_empty = request.operation == kFlush || request.operation == kWriteBarrier;
    if (request.nr_segments == 0 && !may_be_empty) return kError;
    return std::nullopt;
}

std::optional<uint64_t> check_segments(std::span<const Segment> segments, uint64_t sector,
                                       const DiskLimits& limits) {
    uint64_t count = 0;
    for (const Segment& segment : segments) {
        if (segment.first_sector > segment.last_sector || segment.last_sector >= kSectorsPerPage) return std::nullopt;
        count += segment.last_sector - segment.first_sector + 1U;
    }
    // A flush without data carries any sector number.
    if (count > 0 && !in_range(sector, count, limits)) return std::nullopt;
    return count;
}

}  // namespace ringback::blk::worker
