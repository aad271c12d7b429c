// SPDX-License-Identifier: Apache-2.0
//
// The frames that netbench sends, and what it makes of those that arrive.
//
// A frame is UDP over IPv4 with a run's number, a sequence number and the time of its sending in its payload, which just fit in the
// smallest one. One flow, so whatever is not in order, or there twice, is the fault of what is measured. Sizes are without the four bytes
// of a wire's checksum, which no virtual NIC has.
//
// Thread: a Stream its sender's, a Tally its receiver's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "bridge/link.h"

namespace ringback::netbench {

inline constexpr size_t kBurst = 32;
inline constexpr size_t kSmallest = 60;
inline constexpr size_t kLargest = 1514;
using Frame = std::span<const std::byte>;

// Latencies in nanoseconds: to 1/32 of the value, in a fixed amount of memory.
class Histogram {
  public:
    void add(uint64_t ns);
    // The value that `part` of all are not above; 0: there are none.
    [[nodiscard]] uint64_t at(double part) const;
    [[nodiscard]] uint64_t most() const { return most_; }

  private:
    static constexpr unsigned kBits = 5;
    std::array<uint64_t, 64U << kBits> counts_{};
    uint64_t all_ = 0;
    uint64_t most_ = 0;
};

class Stream {
  public:
    // `sizes`: sent in turn. To the broadcast address: a flood that belongs to no run.
    Stream(const bridge::MacAddress& from, const bridge::MacAddress& to, const std::vector<size_t>& sizes, uint16_t run);
    // The next `count` frames, at most kBurst. They stay until the next call; those that were not sent are made again.
    [[nodiscard]] std::span<const Frame> make(size_t count, uint64_t now);
    void sent(size_t count);
    [[nodiscard]] uint64_t frames() const { return next_; }
    [[nodiscard]] uint64_t bytes() const { return bytes_; }

  private:
    static constexpr size_t kHeaders = 42;
    using Headers = std::array<std::byte, kHeaders>;
    std::vector<size_t> sizes_;
    std::vector<Headers> headers_;
    uint16_t run_;
    uint64_t next_ = 0;
    uint64_t bytes_ = 0;
    std::vector<std::array<std::byte, kLargest>> buffers_;
    std::array<Frame, kBurst> frames_;
};

struct Tally {
    explicit Tally(uint16_t wanted) : run(wanted), seen(kWindow) {}
    void take(Frame frame, uint64_t now);

    uint16_t run;
    uint64_t frames = 0, bytes = 0;
    uint64_t foreign = 0;  // of no run or another one: floods, what the host's own stack sends
    uint64_t wrong = 0;    // of this run and not what was sent
    uint64_t duplicates = 0;
    uint64_t disordered = 0;
    uint64_t last_ns = 0;
    Histogram latency;

  private:
    static constexpr size_t kWindow = 1U << 16;
    uint64_t next_ = 0;
    std::vector<bool> seen;
};

}  // namespace ringback::netbench
