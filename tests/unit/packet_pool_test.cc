// SPDX-License-Identifier: Apache-2.0
//
// Where packets wait for a guest that does not read: whole, in order, and within its share.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <deque>
#include <random>

#include "bridge/switch/dpdk.h"
#include "bridge/switch/packet_pool.h"

using namespace ringback;
using namespace ringback::bridge;

TEST_CASE("packets wait in order, whole, and not without bound") {
    REQUIRE(start_dpdk(32));
    auto pool = PacketPool::create(1024);
    REQUIRE(pool);
    const uint32_t free = (*pool)->free();
    {
        PacketPool::Share share(**pool);
        WaitingQueue queue(share, 10, 200'000);
        std::mt19937 random(3);
        std::vector<std::vector<std::byte>> sent;
        size_t popped = 0;
        for (int i = 0; i < 2000; ++i) {
            std::vector<std::byte> packet(1 + random() % 65553);
            for (auto& byte : packet) byte = static_cast<std::byte>(random());
            const size_t cut = random() % packet.size();
            const std::array<std::span<const std::byte>, 2> parts{std::span(packet).first(cut), std::span(packet).subspan(cut)};
            const bool room = queue.count() < 10 && queue.bytes() + packet.size() <= 200'000;
            REQUIRE(queue.push(parts, static_cast<uint64_t>(i)) == room);
            if (room) sent.push_back(packet);
            if (random() % 3 != 0 || queue.empty()) continue;
            std::array<std::span<std::byte>, WaitingQueue::kMostParts> to;
            std::vector<std::byte> got;
            const size_t count = queue.parts(0, to);
            for (size_t part = 0; part < count; ++part) got.insert(got.end(), to[part].begin(), to[part].end());
            REQUIRE(got == sent[popped++]);
            REQUIRE(queue.size(0) == got.size());
            queue.pop(1);
        }
        CHECK(popped > 100);
    }
    CHECK((*pool)->free() == free);
}

TEST_CASE("guests that do not read leave room for the packets of one more") {
    REQUIRE(start_dpdk(32));
    constexpr uint32_t kBuffers = 4096;
    auto pool = PacketPool::create(kBuffers);
    REQUIRE(pool);
    const size_t guests = GENERATE(1U, 2U, 7U, 40U);
    const size_t queues = GENERATE(1U, 8U);
    const size_t size = GENERATE(60U, 2049U, 65553U);
    const std::vector<std::byte> large(65553);
    const std::array<std::span<const std::byte>, 1> packet{std::span(large).first(size)};
    {
        std::deque<PacketPool::Share> shares;
        for (size_t guest = 0; guest <= guests; ++guest) shares.emplace_back(**pool);
        std::vector<std::unique_ptr<WaitingQueue>> waiting;
        for (size_t guest = 0; guest < guests; ++guest) {
            for (size_t i = 0; i < queues; ++i) waiting.push_back(std::make_unique<WaitingQueue>(shares[guest], kBuffers, SIZE_MAX));
        }
        for (bool more = true; more;) {
            more = false;
            for (const auto& queue : waiting) more = queue->push(packet, 0) || more;
        }
        for (size_t guest = 0; guest < guests; ++guest) {
            CHECK(shares[guest].held() >= 33);
            CHECK(shares[guest].held() <= kBuffers / 8 + 64);
        }
        WaitingQueue late(shares.back(), kBuffers, SIZE_MAX);
        const std::array<std::span<const std::byte>, 1> whole{std::span(large)};
        CHECK(late.push(whole, 0));
        // Who gets rid of its packets can have others wait.
        const size_t before = shares[0].held();
        waiting[0]->pop(waiting[0]->count());
        CHECK(shares[0].held() < before);
        CHECK(waiting[0]->push(packet, 0));
    }
    CHECK((*pool)->free() == kBuffers);
    PacketPool::Share again(**pool);  // nothing is left of them
    WaitingQueue queue(again, kBuffers, SIZE_MAX);
    while (queue.push(packet, 0)) {
    }
    CHECK(again.held() + 33 > kBuffers / 8 + 64);
}
