// SPDX-License-Identifier: Apache-2.0
#include "tools/netbench/frames.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace ringback::netbench {

namespace {

constexpr size_t kNetwork = 14;
constexpr size_t kPayload = 42;
constexpr size_t kSequence = kPayload + 2;
constexpr size_t kTime = kSequence + 8;
constexpr uint16_t kPort = 9;  // discard

void put16(std::byte* to, size_t value) {
    to[0] = static_cast<std::byte>(value >> 8 & 0xff);
    to[1] = static_cast<std::byte>(value & 0xff);
}
size_t get16(const std::byte* from) { return std::to_integer<size_t>(from[0]) << 8 | std::to_integer<size_t>(from[1]); }

}  // namespace

void Histogram::add(uint64_t ns) {
    const auto top = static_cast<unsigned>(std::bit_width(ns | (1U << kBits)) - 1);
    const unsigned shift = top - kBits;
    const size_t place = (size_t{shift} << kBits) + (ns >> shift);
    ++counts_[std::min(place, counts_.size() - 1)];
    ++all_;
    most_ = std::max(most_, ns);
}

uint64_t Histogram::at(double part) const {
    const auto wanted = static_cast<uint64_t>(part * static_cast<double>(all_));
    uint64_t below = 0;
    for (size_t place = 0; place < counts_.size(); ++place) {
        below += counts_[place];
        if (below == 0 || below < wanted) continue;
        if (place < (2U << kBits)) return std::min<uint64_t>(place, most_);
        const size_t shift = (place >> kBits) - 1;
        return std::min<uint64_t>(((place & ((1U << kBits) - 1)) + (1U << kBits) + 1) << shift, most_);
    }
    return 0;
}

Stream::Stream(const bridge::MacAddress& from, const bridge::MacAddress& to, const std::vector<size_t>& sizes, uint16_t run)
    : sizes_(sizes), headers_(sizes.size()), run_(run), buffers_(kBurst) {
    for (size_t i = 0; i < sizes.size(); ++i) {
        std::byte* at = headers_[i].data();
        std::memcpy(at, to.data(), to.size());
        std::memcpy(at + 6, from.data(), from.size());
        put16(at + 12, 0x0800);
        at += kNetwork;
        at[0] = std::byte{0x45};
        put16(at + 2, sizes[i] - kNetwork);
        at[8] = std::byte{64};
        at[9] = std::byte{17};
        for (const auto& [place, last] : {std::pair<size_t, size_t>{12, from[5]}, {16, to[5]}}) {
            put16(at + place, 192U << 8);
            put16(at + place + 2, 2U << 8 | last);
        }
        size_t sum = 0;
        for (size_t word = 0; word < 20; word += 2) sum += get16(at + word);
        sum = (sum & 0xffff) + (sum >> 16);
        put16(at + 10, ~((sum & 0xffff) + (sum >> 16)));
        put16(at + 20, kPort);
        put16(at + 22, kPort);
        put16(at + 24, sizes[i] - kNetwork - 20);
    }
    for (auto& buffer : buffers_) std::fill(buffer.begin(), buffer.end(), std::byte{0x5a});
}

std::span<const Frame> Stream::make(size_t count, uint64_t now) {
    for (size_t i = 0; i < count; ++i) {
        const uint64_t sequence = next_ + i;
        const size_t kind = sizes_.size() == 1 ? 0 : sequence % sizes_.size();
        std::byte* at = buffers_[i].data();
        std::memcpy(at, headers_[kind].data(), kHeaders);
        std::memcpy(at + kPayload, &run_, sizeof run_);
        std::memcpy(at + kSequence, &sequence, sizeof sequence);
        std::memcpy(at + kTime, &now, sizeof now);
        frames_[i] = {at, sizes_[kind]};
    }
    return {frames_.data(), count};
}

void Stream::sent(size_t count) {
    for (size_t i = 0; i < count; ++i) bytes_ += frames_[i].size();
    next_ += count;
}

void Tally::take(Frame frame, uint64_t now) {
    uint16_t of = 0;
    if (frame.size() >= kSmallest) std::memcpy(&of, frame.data() + kPayload, sizeof of);
    if (frame.size() < kSmallest || of != run || get16(frame.data() + 12) != 0x0800 || get16(frame.data() + 36) != kPort) {
        ++foreign;
        return;
    }
    uint64_t sequence, then;
    std::memcpy(&sequence, frame.data() + kSequence, sizeof sequence);
    std::memcpy(&then, frame.data() + kTime, sizeof then);
    if (get16(frame.data() + kNetwork + 2) + kNetwork != frame.size()) ++wrong;
    last_ns = now;
    if (sequence >= next_) {
        for (uint64_t skipped = next_; skipped < std::min(sequence, next_ + kWindow); ++skipped) seen[skipped % kWindow] = false;
        next_ = sequence + 1;
    } else if (next_ - sequence > kWindow || !seen[sequence % kWindow]) {
        ++disordered;
    } else {
        ++duplicates;
        return;
    }
    seen[sequence % kWindow] = true;
    ++frames;
    bytes += frame.size();
    latency.add(now > then ? now - then : 0);
}

}  // namespace ringback::netbench
