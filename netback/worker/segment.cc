// SPDX-License-Identifier: Apache-2.0
#include "netback/worker/segment.h"

#include <algorithm>

#include "netback/worker/checksum.h"

namespace ringback::net::worker {

namespace {

constexpr size_t kSequence = 4;
constexpr size_t kFlags = 13;
constexpr size_t kChecksum = 16;
constexpr std::byte kFin{0x01};
constexpr std::byte kPush{0x08};
constexpr std::byte kReduced{0x80};  // CWR

void add_to_word(std::span<std::byte> packet, size_t at, size_t value) {
    put_word(packet, at, static_cast<uint16_t>(word_at(packet, at) + value));
}

}  // namespace

std::optional<Segments> Segments::of(std::span<const std::byte> packet, const bridge::VnetHeader& header) {
    const auto layers = find_layers(packet);
    if (!layers || !layers->tcp || header.gso_size == 0) return std::nullopt;
    Segments segments(packet, *layers, header.gso_size);
    if (segments.count_ > kMost) return std::nullopt;
    return segments;
}

Segments::Segments(std::span<const std::byte> packet, const Layers& layers, size_t size)
    : packet_(packet), layers_(layers), size_(size), count_((packet.size() - layers.payload + size - 1) / size) {}

std::span<const std::byte> Segments::cut(size_t number, std::span<std::byte> header) const {
    const size_t begin = layers_.payload + number * size_;
    const auto payload = packet_.subspan(begin, std::min(size_, packet_.size() - begin));
    std::copy_n(packet_.begin(), layers_.payload, header.begin());
    const size_t l3 = layers_.network;
    const size_t l4 = layers_.transport;
    if (layers_.v6) {
        put_word(header, l3 + 4, static_cast<uint16_t>(layers_.payload - l3 - 40 + payload.size()));
    } else {
        put_word(header, l3 + 2, static_cast<uint16_t>(layers_.payload - l3 + payload.size()));
        add_to_word(header, l3 + 4, number);
        put_word(header, l3 + 10, 0);
        const size_t length = std::to_integer<size_t>(header[l3] & std::byte{15}) * 4;
        put_word(header, l3 + 10, static_cast<uint16_t>(~fold(sum_words(header.subspan(l3, length)))));
    }
    const uint32_t sequence = (uint32_t{word_at(header, l4 + kSequence)} << 16 | word_at(header, l4 + kSequence + 2)) +
                              static_cast<uint32_t>(number * size_);
    put_word(header, l4 + kSequence, static_cast<uint16_t>(sequence >> 16));
    put_word(header, l4 + kSequence + 2, static_cast<uint16_t>(sequence & 0xffff));
    if (number + 1 < count_) header[l4 + kFlags] &= ~(kFin | kPush);
    if (number > 0) header[l4 + kFlags] &= ~kReduced;
    put_word(header, l4 + kChecksum, 0);
    const size_t tcp = layers_.payload - l4;
    const uint64_t sum = uint64_t{pseudo_sum(header, layers_, tcp + payload.size())} +
                         sum_words(std::span<const std::byte>(header).subspan(l4, tcp)) + sum_words(payload);
    put_word(header, l4 + kChecksum, static_cast<uint16_t>(~fold(sum)));
    return payload;
}

}  // namespace ringback::net::worker
