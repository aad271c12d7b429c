// SPDX-License-Identifier: Apache-2.0
#include "blkback/worker/buffers.h"

#include <catch2/catch_test_macros.hpp>
#include <cstring>
#include <map>
#include <random>
#include <vector>

using namespace ringback;
using namespace ringback::blk::worker;

namespace {
std::unique_ptr<Reactor> started() {
    auto reactor = std::move(Reactor::create({})).value();
    reactor->start().value();
    return reactor;
}
}  // namespace

TEST_CASE("buffers never overlap and are found again whole") {
    auto reactor = started();
    BufferPool pool(*reactor, 8 << 20);
    std::mt19937 random(7);
    struct Held {
        Buffer buffer;
        size_t bytes;
        uint8_t mark;
    };
    std::vector<Held> held;
    size_t taken = 0;
    for (int step = 0; step < 20000; ++step) {
        if (random() % 2 == 0) {
            const size_t bytes = size_t{512} * (1 + random() % 2048);
            const Buffer buffer = pool.take(bytes);
            if (!buffer) continue;
            ++taken;
            const auto mark = static_cast<uint8_t>(random());
            std::memset(buffer.data, mark, bytes);
            held.push_back({buffer, bytes, mark});
        } else if (!held.empty()) {
            std::swap(held[random() % held.size()], held.back());
            const Held& last = held.back();
            REQUIRE(static_cast<uint8_t>(last.buffer.data[0]) == last.mark);
            REQUIRE(static_cast<uint8_t>(last.buffer.data[last.bytes - 1]) == last.mark);
            pool.give_back(last.buffer);
            held.pop_back();
        }
    }
    CHECK(taken > 1000);
    for (const Held& last : held) pool.give_back(last.buffer);
    CHECK(pool.bytes_locked() <= 8 << 20);
}

TEST_CASE("a full pool refuses, tells when there is room, and can be cut for another size") {
    auto reactor = started();
    BufferPool pool(*reactor, 2 << 20);
    std::vector<Buffer> small;
    while (const Buffer buffer = pool.take(4096)) small.push_back(buffer);
    CHECK(small.size() == 512);
    CHECK_FALSE(pool.take(1 << 20));

    struct Woken : Task {
        int runs = 0;
    } waiter;
    waiter.run = [](Task& self) noexcept { ++static_cast<Woken&>(self).runs; };
    pool.wait(waiter);
    for (const Buffer& buffer : small) pool.give_back(buffer);
    reactor->turn(false);
    CHECK(waiter.runs == 1);
    const Buffer large = pool.take(1 << 20);
    CHECK(large);
    pool.give_back(large);
}
