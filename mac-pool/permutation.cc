// SPDX-License-Identifier: Apache-2.0
//
// SipHash: Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012; the test vectors are the paper's.
#include "mac-pool/permutation.h"

#include <bit>

#include "runtime/check.h"

namespace ringback::mac {

namespace {

constexpr unsigned kRounds = 10;

struct SipState {
    uint64_t a, b, c, d;

    void turn() {
        a += b;
        b = std::rotl(b, 13) ^ a;
        a = std::rotl(a, 32);
        c += d;
        d = std::rotl(d, 16) ^ c;
        a += d;
        d = std::rotl(d, 21) ^ a;
        c += b;
        b = std::rotl(b, 17) ^ c;
        c = std::rotl(c, 32);
    }
    void take(uint64_t word) {
        d ^= word;
        turn();
        turn();
        a ^= word;
    }
};

constexpr uint64_t mask(unsigned bits) {
    return (uint64_t{1} << bits) - 1;
}

}  // namespace

uint64_t siphash(const Key& key, uint64_t first, uint64_t second) {
    SipState state{key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d, key[0] ^ 0x6c7967656e657261,
                   key[1] ^ 0x7465646279746573};
    state.take(first);
    state.take(second);
    state.take(uint64_t{16} << 56);  // the last block holds the length
    state.c ^= 0xff;
    for (int turn = 0; turn < 4; ++turn)
        state.turn();
    return state.a ^ state.b ^ state.c ^ state.d;
}

Permutation::Permutation(const Key& key, uint64_t size) : key_(key), size_(size) {
    INVARIANT(size >= 1 && size <= uint64_t{1} << 48);
    const auto bits = static_cast<unsigned>(std::bit_width(size - 1));
    low_bits_ = (bits + 1) / 2;
    high_bits_ = bits - low_bits_;
}

// Even rounds change the low half by the high one, odd rounds the other way; a round undoes itself.
uint64_t Permutation::round(uint64_t number, unsigned round) const {
    const uint64_t low = number & mask(low_bits_);
    const uint64_t high = number >> low_bits_;
    if (round % 2 == 0) return high << low_bits_ | (low ^ (siphash(key_, round, high) & mask(low_bits_)));
    return (high ^ (siphash(key_, round, low) & mask(high_bits_))) << low_bits_ | low;
}

uint64_t Permutation::forward(uint64_t index) const {
    INVARIANT(index < size_);
    do {
        for (unsigned number = 0; number < kRounds; ++number)
            index = round(index, number);
    } while (index >= size_);
    return index;
}

uint64_t Permutation::backward(uint64_t number) const {
    INVARIANT(number < size_);
    do {
        for (unsigned left = kRounds; left > 0; --left)
            number = round(number, left - 1);
    } while (number >= size_);
    return number;
}

}  // namespace ringback::mac
