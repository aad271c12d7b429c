// SPDX-License-Identifier: Apache-2.0
//
// Permutation: a keyed shuffle of 0..size-1 that is computed and not stored.
//
// A pool that draws at random and tries again on a hit slows down as it fills, and one that keeps a shuffled
// list keeps 2^24 entries. A keyed permutation needs neither: the i-th draw is forward(i), every number comes
// once, and the cursor i is all that a pool must remember. backward() finds the draw of a given number, for
// addresses that are reserved by hand.
//
// How: a Feistel network over the fewest bits that hold the size, its round function SipHash-2-4 under the
// pool's key. The network permutes a power of two; a result outside is put in again until it falls inside
// (cycle walking), which is still a permutation and takes less than two turns on average because at least
// half of the numbers are inside. The halves may differ by a bit, so the rounds change them in turn and
// nothing is swapped. Ten rounds: more than the seven that a Feistel network with perfect rounds needs, and
// the cost, a microsecond, is lost beside one disk sync.
//
// Not a secret-keeping device: the key keeps two pools apart, it does not hide one.
#pragma once

#include <array>
#include <cstdint>

namespace ringback::mac {

using Key = std::array<uint64_t, 2>;

class Permutation {
  public:
    // size: 1 to 2^48.
    Permutation(const Key& key, uint64_t size);

    [[nodiscard]] uint64_t forward(uint64_t index) const;
    [[nodiscard]] uint64_t backward(uint64_t number) const;

  private:
    [[nodiscard]] uint64_t round(uint64_t number, unsigned round) const;

    Key key_;
    uint64_t size_;
    unsigned low_bits_;
    unsigned high_bits_;
};

// SipHash-2-4 of the 16 bytes of two little-endian words.
[[nodiscard]] uint64_t siphash(const Key& key, uint64_t first, uint64_t second);

}  // namespace ringback::mac
