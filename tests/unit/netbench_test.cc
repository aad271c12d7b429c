// SPDX-License-Identifier: Apache-2.0
//
// That netbench sees what it says it saw: what is lost, late, there twice or changed on the way.
#include <catch2/catch_test_macros.hpp>
#include <vector>

#include "tools/netbench/frames.h"

using namespace ringback::netbench;

namespace {

constexpr ringback::bridge::MacAddress kFrom{0, 0x16, 0x3e, 0, 0, 1}, kTo{0, 0x16, 0x3e, 0, 0, 2};

std::vector<std::vector<std::byte>> frames(Stream& stream, size_t count, uint64_t now) {
    std::vector<std::vector<std::byte>> made;
    for (const Frame frame : stream.make(count, now)) made.emplace_back(frame.begin(), frame.end());
    stream.sent(count);
    return made;
}

}  // namespace

TEST_CASE("what arrives as it was sent has no fault, in sizes that take turns") {
    Stream stream(kFrom, kTo, {60, 1514}, 7);
    Tally tally(7);
    for (int burst = 0; burst < 3000; ++burst) {
        for (const auto& frame : frames(stream, kBurst, 1000)) tally.take(frame, 5000);
    }
    CHECK(tally.frames == 3000 * kBurst);
    CHECK(tally.bytes == stream.bytes());
    CHECK(tally.bytes == 3000 * kBurst / 2 * (60 + 1514));
    CHECK(tally.wrong + tally.duplicates + tally.disordered + tally.foreign == 0);
    CHECK(tally.latency.at(0.5) >= 4000);
    CHECK(tally.latency.at(0.5) <= 4000 + 4000 / 32 + 1);
    CHECK(tally.latency.most() == 4000);
}

TEST_CASE("each fault is counted as what it is") {
    Stream stream(kFrom, kTo, {60}, 7);
    Tally tally(7);
    auto sent = frames(stream, 10, 0);
    const auto take = [&](size_t i) { tally.take(sent[i], 1); };
    take(0);
    take(2);
    take(1);  // overtaken
    CHECK(tally.disordered == 1);
    take(2);
    take(0);
    CHECK(tally.duplicates == 2);
    CHECK(tally.frames == 3);
    take(5);  // 3 and 4 are lost until they come
    CHECK(tally.frames == 4);
    take(3);
    CHECK(tally.disordered == 2);
    CHECK(tally.wrong == 0);
    sent[6].push_back(std::byte{0});
    take(6);
    CHECK(tally.wrong == 1);
    Stream other(kFrom, kTo, {60}, 8);
    tally.take(frames(other, 1, 0)[0], 1);
    tally.take(Frame(sent[7]).first(20), 1);
    CHECK(tally.foreign == 2);
    // Past what is remembered: a new one, and one that is too old to know.
    for (int burst = 0; burst < 4000; ++burst) {
        for (const auto& frame : frames(stream, kBurst, 0)) tally.take(frame, 1);
    }
    CHECK(tally.duplicates == 2);
    CHECK(tally.disordered == 2);
    take(8);
    CHECK(tally.disordered == 3);
}

TEST_CASE("percentiles are within a thirty-second") {
    Histogram histogram;
    CHECK(histogram.at(0.5) == 0);
    for (uint64_t ns = 1; ns <= 100'000; ++ns) histogram.add(ns);
    for (const double part : {0.001, 0.1, 0.5, 0.9, 0.99, 0.999}) {
        const double exact = part * 100'000;
        CHECK(static_cast<double>(histogram.at(part)) >= exact * 0.99);
        CHECK(static_cast<double>(histogram.at(part)) <= exact * (1 + 1.0 / 30) + 1);
    }
    CHECK(histogram.at(1) == 100'000);
}
