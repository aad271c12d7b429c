// SPDX-License-Identifier: Apache-2.0
//
// One io_uring request on an image's file: how it is made, and what is left after a part of it was done.
//
// Thread: the reactor's owner.
#pragma once

#include <limits.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>

#include "disk-images/image.h"

namespace ringback::image {

// Whether a result is worth another try. A bounded number of them: it is never tried for ever.
inline bool try_again(int32_t result, uint32_t& retries) {
    constexpr uint32_t kMaxRetries = 16;
    return (result == -EAGAIN || result == -EINTR) && retries++ < kMaxRetries;
}

// Drops `bytes` from the front of the vectors.
inline void consume(std::span<iovec>& vectors, size_t bytes) {
    while (bytes > 0 && bytes >= vectors.front().iov_len) {
        bytes -= vectors.front().iov_len;
        vectors = vectors.subspan(1);
    }
    if (bytes > 0) {
        vectors.front().iov_base = static_cast<std::byte*>(vectors.front().iov_base) + bytes;
        vectors.front().iov_len -= bytes;
    }
}

// What does not fit into one request (a length of 32 bits, IOV_MAX vectors) is a partial transfer like others.
inline void prepare_transfer(io_uring_sqe* sqe, uint32_t slot, bool reads, std::span<iovec> vectors, uint64_t offset,
                             uint16_t buffer) {
    const int file = static_cast<int>(slot);
    const iovec& first = vectors.front();
    const auto length = static_cast<unsigned>(std::min<size_t>(first.iov_len, 1U << 30));
    const auto count = static_cast<unsigned>(std::min<size_t>(vectors.size(), IOV_MAX));
    if (count == 1 && buffer != kNoBuffer) {
        if (reads) {
            io_uring_prep_read_fixed(sqe, file, first.iov_base, length, offset, buffer);
        } else {
            io_uring_prep_write_fixed(sqe, file, first.iov_base, length, offset, buffer);
        }
    } else if (count == 1) {
        if (reads) {
            io_uring_prep_read(sqe, file, first.iov_base, length, offset);
        } else {
            io_uring_prep_write(sqe, file, first.iov_base, length, offset);
        }
    } else if (reads) {
        io_uring_prep_readv(sqe, file, vectors.data(), count, offset);
    } else {
        io_uring_prep_writev(sqe, file, vectors.data(), count, offset);
    }
    sqe->flags |= IOSQE_FIXED_FILE;
}

inline void prepare_fallocate(io_uring_sqe* sqe, uint32_t slot, int mode, uint64_t offset, uint64_t length) {
    io_uring_prep_fallocate(sqe, static_cast<int>(slot), mode, static_cast<off_t>(offset), static_cast<off_t>(length));
    sqe->flags |= IOSQE_FIXED_FILE;
}

}  // namespace ringback::image
