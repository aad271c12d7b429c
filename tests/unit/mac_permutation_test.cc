// SPDX-License-Identifier: Apache-2.0
//
// The order of drawing, over the whole of the default pool. The judge of randomness is itself judged: it has
// to condemn a counter and a counter that strides.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <cmath>
#include <functional>
#include <vector>

#include "mac-pool/permutation.h"

using namespace ringback::mac;

namespace {

constexpr uint64_t kWhole = uint64_t{1} << 24;
constexpr uint64_t kDraws = 65'536;
constexpr uint64_t kBins = 256;

using Draw = std::function<uint64_t(uint64_t)>;

bool each_once(const Draw& draw, uint64_t size) {
    std::vector<bool> seen(size);
    for (uint64_t index = 0; index < size; ++index) {
        const uint64_t number = draw(index);
        if (number >= size || seen[number]) return false;
        seen[number] = true;
    }
    return true;
}

// Of the first draws: how evenly they fall into bins of neighbouring addresses. Expected 255, standard
// deviation 22.6.
double chi_square(const Draw& draw, uint64_t size) {
    std::vector<double> bins(kBins);
    for (uint64_t index = 0; index < kDraws; ++index)
        ++bins[draw(index) * kBins / size];
    double sum = 0;
    const double expected = static_cast<double>(kDraws) / static_cast<double>(kBins);
    for (const double count : bins)
        sum += (count - expected) * (count - expected) / expected;
    return sum;
}

// Between each draw and the next.
double correlation(const Draw& draw) {
    double mean = 0;
    for (uint64_t index = 0; index < kDraws; ++index)
        mean += static_cast<double>(draw(index)) / static_cast<double>(kDraws);
    double together = 0;
    double alone = 0;
    for (uint64_t index = 0; index < kDraws; ++index) {
        const double here = static_cast<double>(draw(index)) - mean;
        alone += here * here;
        if (index + 1 < kDraws) together += here * (static_cast<double>(draw(index + 1)) - mean);
    }
    return together / alone;
}

// Five standard deviations to both sides: too even is not random either.
bool looks_random(const Draw& draw, uint64_t size) {
    const double chi = chi_square(draw, size);
    return chi > 142 && chi < 368 && std::abs(correlation(draw)) < 0.02;
}

Draw drawing(const Key& key, uint64_t size) {
    return [permutation = Permutation(key, size)](uint64_t index) { return permutation.forward(index); };
}

}  // namespace

TEST_CASE("SipHash-2-4 gives the result of its paper") {
    // Its vector for the 15 bytes 00..0e needs another length; this one is the 16 bytes 00..0f of its
    // reference table.
    CHECK(siphash({0x0706050403020100, 0x0f0e0d0c0b0a0908}, 0x0706050403020100, 0x0f0e0d0c0b0a0908) ==
          0x3f2acc7f57c29bdb);
}

TEST_CASE("all 2^24 addresses are drawn once each, in an order that looks random") {
    const Key key = GENERATE(Key{0, 0}, Key{0x0123456789abcdef, 0xfedcba9876543210}, Key{1, 0});
    const Draw draw = drawing(key, kWhole);
    CHECK(each_once(draw, kWhole));
    CHECK(chi_square(draw, kWhole) > 142);
    CHECK(chi_square(draw, kWhole) < 368);
    CHECK(std::abs(correlation(draw)) < 0.02);
    CHECK(looks_random(draw, kWhole));
}

TEST_CASE("a counter in place of the permutation is found out") {
    const uint64_t stride = GENERATE(1, 257, 65'537, 5'592'405);
    const Draw counter = [=](uint64_t index) { return (12'345 + index * stride) % kWhole; };
    REQUIRE(each_once(counter, kWhole));
    CHECK_FALSE(looks_random(counter, kWhole));
}

TEST_CASE("two keys give two orders") {
    const Permutation one({1, 2}, kWhole);
    const Permutation two({1, 3}, kWhole);
    uint64_t same = 0;
    for (uint64_t index = 0; index < kDraws; ++index)
        same += one.forward(index) == two.forward(index) ? 1 : 0;
    CHECK(same < 8);  // 65,536 chances of 2^-24
}

TEST_CASE("every size is permuted, and backward undoes forward") {
    const uint64_t size = GENERATE(1, 2, 3, 4, 5, 7, 16, 17, 255, 256, 257, 1000, 65'535, 65'537);
    const Permutation permutation({3, 4}, size);
    CHECK(each_once([&](uint64_t index) { return permutation.forward(index); }, size));
    for (uint64_t index = 0; index < size; ++index)
        REQUIRE(permutation.backward(permutation.forward(index)) == index);
}

TEST_CASE("a range of 2^40 addresses is permuted too") {
    const uint64_t size = (uint64_t{1} << 40) - 12'345;
    const Permutation permutation({5, 6}, size);
    for (uint64_t index = 0; index < 10'000; ++index) {
        const uint64_t number = permutation.forward(size - 1 - index);
        REQUIRE(number < size);
        REQUIRE(permutation.backward(number) == size - 1 - index);
    }
    CHECK(looks_random([&](uint64_t index) { return permutation.forward(index); }, size));
}
