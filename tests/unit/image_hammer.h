// SPDX-License-Identifier: Apache-2.0
//
// Random requests against an image, many at a time, compared with an oracle.
#pragma once

#include <algorithm>
#include <random>

#include "image_fixture.h"

namespace ringback::image::test {

// Many requests in flight, each in a stripe of its own so that they never overlap; every sector is compared
// with what was last written there. Half of the requests have several vectors, one in four uses the
// registered buffer.
inline void hammer(Disk& disk, uint64_t seed, size_t rounds) {
    constexpr size_t kInFlight = 32;
    constexpr size_t kStripe = 64 * 1024;
    const uint64_t sectors = disk.image->geometry().bytes / kSectorSize;
    REQUIRE(sectors * kSectorSize >= kInFlight * kStripe);
    std::vector<std::byte> oracle(sectors * kSectorSize);
    REQUIRE(disk.image->geometry().bytes == oracle.size());
    Memory space = memory(kInFlight * kStripe);
    const uint32_t slot = disk.reactor->put_buffer({space.get(), kInFlight * kStripe}).value();
    std::mt19937_64 random(seed);
    const size_t stripe = oracle.size() / kInFlight / kSectorSize * kSectorSize;
    for (size_t round = 0; round < rounds; ++round) {
        std::vector<std::unique_ptr<Request>> requests;
        std::vector<Io*> batch;
        for (size_t i = 0; i < kInFlight; ++i) {
            const uint64_t first = random() % (stripe / kSectorSize);
            const uint64_t room = std::min<uint64_t>(stripe / kSectorSize - first, kStripe / kSectorSize);
            const size_t bytes = (1 + random() % room) * kSectorSize;
            std::byte* data = space.get() + i * kStripe;
            std::vector<iovec> parts;
            const bool fixed = random() % 4 == 0;
            const size_t cut =
                fixed || random() % 2 == 0 ? bytes : random() % (bytes / kSectorSize) * kSectorSize;
            if (cut > 0) parts.push_back({data, cut});
            if (cut < bytes) parts.push_back({data + cut, bytes - cut});
            const Op op = random() % 2 == 0 ? Op::read : Op::write;
            auto request = std::make_unique<Request>(op, i * stripe + first * kSectorSize, parts);
            if (fixed) request->buffer = static_cast<uint16_t>(slot);
            if (op == Op::write) {
                fill(data, bytes, random());
                std::memcpy(oracle.data() + request->offset, data, bytes);
            } else {
                std::memset(data, 0xee, bytes);
            }
            batch.push_back(request.get());
            requests.push_back(std::move(request));
        }
        disk.image->submit(batch);
        size_t wrong = 0;
        for (size_t i = 0; i < kInFlight; ++i) {
            Request& request = *requests[i];
            disk.wait(request);
            const bool same =
                std::memcmp(space.get() + i * kStripe, oracle.data() + request.offset, request.length) == 0;
            if (request.result != 0 || request.answers != 1 || !same) ++wrong;
        }
        REQUIRE(wrong == 0);
    }
    Memory all = memory(oracle.size());
    REQUIRE(disk.transfer(Op::read, 0, all.get(), oracle.size()) == 0);
    CHECK(std::memcmp(all.get(), oracle.data(), oracle.size()) == 0);
    disk.reactor->drop_buffer(slot);
}

}  // namespace ringback::image::test
