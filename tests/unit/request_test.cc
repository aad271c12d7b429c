// SPDX-License-Identifier: Apache-2.0
#include "blkback/worker/request.h"

#include <array>
#include <catch2/catch_test_macros.hpp>
#include <cstring>

using namespace ringback::blk;
using namespace ringback::blk::worker;
using namespace ringback::xen::blkif;

namespace {

constexpr DiskLimits kDisk{.sectors = 1000, .writable = true, .discard = true};

StoredRequest direct(uint8_t operation, uint16_t segments) {
    StoredRequest request{};
    request.operation = operation;
    request.nr_segments = segments;
    return request;
}

StoredRequest indirect(uint8_t operation, uint16_t segments) {
    StoredRequest request = direct(operation, segments);
    request.indirect = 1;
    return request;
}

// Writes fields where the public header has them, byte by byte, so that a mistake in our structures shows.
struct Entry {
    std::array<std::byte, 112> bytes{};
    template <typename T>
    Entry& put(size_t offset, T value) {
        std::memcpy(bytes.data() + offset, &value, sizeof value);
        return *this;
    }
};

// Into a slot that held another request before.
StoredRequest decoded(Abi abi, const Entry& entry) {
    StoredRequest request;
    std::memset(&request, 0xaa, sizeof request);
    decode(abi, entry.bytes.data(), request);
    return request;
}

}  // namespace

TEST_CASE("a write is decoded from both layouts") {
    for (const Abi abi : {Abi::native, Abi::x86_64, Abi::x86_32}) {
        const size_t shift = abi == Abi::x86_32 ? 4 : 0;
        Entry entry;
        entry.put<uint8_t>(0, kWrite).put<uint8_t>(1, 2).put<uint16_t>(2, 7);
        entry.put<uint64_t>(8 - shift, 0x1122334455667788).put<uint64_t>(16 - shift, 0xaabbccdd);
        entry.put<uint32_t>(24 - shift, 41).put<uint8_t>(28 - shift, 1).put<uint8_t>(29 - shift, 6);
        entry.put<uint32_t>(32 - shift, 42).put<uint8_t>(36 - shift, 0).put<uint8_t>(37 - shift, 7);
        const StoredRequest request = decoded(abi, entry);
        CHECK(request.operation == kWrite);
        CHECK(request.nr_segments == 2);
        CHECK(request.id == 0x1122334455667788);
        CHECK(request.sector == 0xaabbccdd);
        CHECK(request.segments[0].gref == 41);
        CHECK(request.segments[0].first_sector == 1);
        CHECK(request.segments[0].last_sector == 6);
        CHECK(request.segments[1].gref == 42);
        CHECK(request.indirect == 0);
    }
}

TEST_CASE("an indirect request keeps its inner operation, which its response must carry") {
    for (const Abi abi : {Abi::x86_64, Abi::x86_32}) {
        const size_t shift = abi == Abi::x86_32 ? 4 : 0;
        Entry entry;
        entry.put<uint8_t>(0, kIndirect).put<uint8_t>(1, kRead).put<uint16_t>(2, 256);
        entry.put<uint64_t>(8 - shift, 5).put<uint64_t>(16 - shift, 6);
        entry.put<uint32_t>(28 - shift, 99);
        const StoredRequest request = decoded(abi, entry);
        CHECK(request.operation == kRead);
        CHECK(request.indirect == 1);
        CHECK(request.nr_segments == 256);
        CHECK(request.id == 5);
        CHECK(request.sector == 6);
        CHECK(request.indirect_grefs[0] == 99);
    }
}

TEST_CASE("a discard and an unknown operation are decoded from both layouts") {
    for (const Abi abi : {Abi::x86_64, Abi::x86_32}) {
        const size_t shift = abi == Abi::x86_32 ? 4 : 0;
        Entry entry;
        entry.put<uint8_t>(0, kDiscard).put<uint8_t>(1, 1);
        entry.put<uint64_t>(8 - shift, 5).put<uint64_t>(16 - shift, 6).put<uint64_t>(24 - shift, 7);
        const StoredRequest discard = decoded(abi, entry);
        CHECK(discard.discard_flag == 1);
        CHECK(discard.sector == 6);
        CHECK(discard.nr_sectors == 7);

        Entry other;
        other.put<uint8_t>(0, 77).put<uint64_t>(8 - shift, 123);
        CHECK(decoded(abi, other).operation == 77);
        CHECK(decoded(abi, other).id == 123);
    }
}

TEST_CASE("requests that the protocol or the disk does not allow are refused") {
    DiskLimits read_only = kDisk;
    read_only.writable = false;
    DiskLimits no_discard = kDisk;
    no_discard.discard = false;

    CHECK_FALSE(check_request(direct(kRead, 11), kDisk).has_value());
    CHECK(check_request(direct(kRead, 0), kDisk) == kError);
    CHECK(check_request(direct(kRead, 12), kDisk) == kError);
    CHECK(check_request(direct(kRead, 255), kDisk) == kError);
    CHECK(check_request(direct(kWrite, 1), read_only) == kError);
    CHECK(check_request(direct(kWriteBarrier, 1), read_only) == kError);
    CHECK_FALSE(check_request(direct(kFlush, 0), read_only).has_value());
    CHECK(check_request(direct(kFlush, 1), read_only) == kError);
    CHECK_FALSE(check_request(direct(kFlush, 0), kDisk).has_value());
    CHECK_FALSE(check_request(direct(kWriteBarrier, 0), kDisk).has_value());
    CHECK(check_request(direct(kReserved, 1), kDisk) == kNotSupported);
    CHECK(check_request(direct(77, 1), kDisk) == kNotSupported);

    CHECK_FALSE(check_request(indirect(kRead, 1), kDisk).has_value());
    CHECK_FALSE(check_request(indirect(kWrite, kMaxSegments), kDisk).has_value());
    CHECK(check_request(indirect(kRead, kMaxSegments + 1), kDisk) == kError);
    CHECK(check_request(indirect(kRead, 0), kDisk) == kError);
    CHECK(check_request(indirect(kFlush, 1), kDisk) == kError);
    CHECK(check_request(indirect(kWriteBarrier, 1), kDisk) == kError);
    CHECK(check_request(indirect(kDiscard, 1), kDisk) == kError);
    CHECK(check_request(indirect(kIndirect, 1), kDisk) == kNotSupported);

    StoredRequest discard{};
    discard.operation = kDiscard;
    discard.sector = 990;
    discard.nr_sectors = 10;
    CHECK_FALSE(check_request(discard, kDisk).has_value());
    CHECK(check_request(discard, read_only) == kError);
    CHECK(check_request(discard, no_discard) == kNotSupported);
    discard.nr_sectors = 11;
    CHECK(check_request(discard, kDisk) == kError);
    discard.nr_sectors = UINT64_MAX;
    CHECK(check_request(discard, kDisk) == kError);
    discard.nr_sectors = 1;
    discard.discard_flag = kDiscardSecure;
    CHECK(check_request(discard, kDisk) == kNotSupported);
}

TEST_CASE("segments stay in their page and the range stays on the disk") {
    const Segment page{1, 0, 7, 0};
    const Segment sector{1, 3, 3, 0};
    CHECK(check_segments(std::array{page, sector}, 0, kDisk) == 9U);
    CHECK(check_segments(std::array{page}, 992, kDisk) == 8U);
    CHECK_FALSE(check_segments(std::array{page}, 993, kDisk).has_value());
    CHECK_FALSE(check_segments(std::array{page}, UINT64_MAX - 3, kDisk).has_value());
    CHECK_FALSE(check_segments(std::array{Segment{1, 4, 3, 0}}, 0, kDisk).has_value());
    CHECK_FALSE(check_segments(std::array{Segment{1, 0, 8, 0}}, 0, kDisk).has_value());
    CHECK_FALSE(check_segments(std::array{Segment{1, 255, 255, 0}}, 0, kDisk).has_value());
    // Linux sends sector -1 with an empty flush.
    CHECK(check_segments({}, UINT64_MAX, kDisk) == 0U);
}
