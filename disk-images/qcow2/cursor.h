// SPDX-License-Identifier: Apache-2.0
//
// Cursor: how far a request's memory has been used. A request is done piece by piece, each with vectors of
// its own.
//
// Thread: the request's.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "disk-images/qcow2/file.h"

namespace ringback::image::qcow2 {

class Cursor {
  public:
    explicit Cursor(std::span<const iovec> vectors) : vectors_(vectors) {}
    // Memory of zeros without end, to be written.
    static Cursor of_zeros() {
        Cursor cursor{std::span<const iovec>{}};
        cursor.zeros_ = true;
        return cursor;
    }

    // How much the next `count` vectors can hold.
    [[nodiscard]] uint64_t limit(size_t count) const {
        if (zeros_) return count * kZeros;
        uint64_t bytes = 0;
        for (size_t i = 0; i < std::min(count, vectors_.size()); ++i)
            bytes += vectors_[i].iov_len;
        return bytes - std::min<uint64_t>(bytes, skip_);
    }

    // The next `bytes`, which are used up. `to` has room for them.
    std::span<iovec> take(uint64_t bytes, std::span<iovec> to) {
        size_t used = 0;
        while (bytes > 0) {
            const iovec next = piece(bytes);
            to[used++] = next;
            bytes -= next.iov_len;
        }
        return to.first(used);
    }
    void copy_in(const std::byte* from, uint64_t bytes) {
        while (bytes > 0) {
            const iovec to = piece(bytes);
            std::memcpy(to.iov_base, from, to.iov_len);
            from += to.iov_len;
            bytes -= to.iov_len;
        }
    }
    void clear(uint64_t bytes) {
        while (bytes > 0) {
            const iovec to = piece(bytes);
            std::memset(to.iov_base, 0, to.iov_len);
            bytes -= to.iov_len;
        }
    }

  private:
    static constexpr uint64_t kZeros = 4096;
    iovec piece(uint64_t most) {
        if (zeros_) return {zero_page(), static_cast<size_t>(std::min(most, kZeros))};
        const iovec& first = vectors_.front();
        const size_t bytes = static_cast<size_t>(std::min<uint64_t>(most, first.iov_len - skip_));
        const iovec found{static_cast<std::byte*>(first.iov_base) + skip_, bytes};
        skip_ += bytes;
        if (skip_ == first.iov_len) {
            vectors_ = vectors_.subspan(1);
            skip_ = 0;
        }
        return found;
    }

    std::span<const iovec> vectors_;
    size_t skip_ = 0;  // bytes of the first one that are used
    bool zeros_ = false;
};

}  // namespace ringback::image::qcow2
