// SPDX-License-Identifier: Apache-2.0
//
// Input: the bytes of one execution, taken from the front. What is asked for past their end is zero, so that every input means
// something and a shorter one is always simpler.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

namespace ringback::fuzz {

class Input {
  public:
    Input(const uint8_t* data, size_t size) : rest_(data, size) {}

    [[nodiscard]] bool empty() const { return rest_.empty(); }
    [[nodiscard]] size_t left() const { return rest_.size(); }

    template <typename T>
    T take() {
        static_assert(std::is_trivially_copyable_v<T>);
        T value{};
        fill(std::as_writable_bytes(std::span(&value, 1)));
        return value;
    }
    uint8_t byte() { return take<uint8_t>(); }
    bool flag() { return (byte() & 1) != 0; }
    // 0..count-1
    uint32_t below(uint32_t count) { return count <= 256 ? byte() % count : take<uint32_t>() % count; }

    // As much as there is; the rest of `to` stays as it is.
    size_t fill(std::span<std::byte> to) {
        const size_t count = std::min(to.size(), rest_.size());
        if (count != 0) std::memcpy(to.data(), rest_.data(), count);
        rest_ = rest_.subspan(count);
        return count;
    }
    std::span<const uint8_t> bytes(size_t most) {
        const auto taken = rest_.first(std::min(most, rest_.size()));
        rest_ = rest_.subspan(taken.size());
        return taken;
    }
    std::string text(size_t most) {
        const auto taken = bytes(most);
        return {taken.begin(), taken.end()};
    }
    std::string rest() { return text(rest_.size()); }

  private:
    std::span<const uint8_t> rest_;
};

}  // namespace ringback::fuzz
