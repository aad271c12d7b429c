// SPDX-License-Identifier: Apache-2.0
#include "disk-images/qcow2/blocking_file.h"

#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace ringback::image::qcow2 {

BlockingFile::BlockingFile(int fd, std::string name)
    : fd_(fd), name_(std::move(name)), buffer_(static_cast<std::byte*>(std::aligned_alloc(kBlock, kBuffer))) {
    if (!buffer_) throw std::bad_alloc();
}

Result<void> BlockingFile::read_blocks(uint64_t offset, size_t bytes) {
    size_t done = 0;
    while (done < bytes) {
        const ssize_t got = pread(fd_, buffer_.get() + done, bytes - done, static_cast<off_t>(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return os_error(fmt::format("read {} at {}", name_, offset + done));
        done += static_cast<size_t>(got);
        // Inside a block: the end of the file; direct I/O could not go on from there anyway.
        if (got == 0 || done % kBlock != 0) break;
    }
    std::memset(buffer_.get() + done, 0, bytes - done);
    return {};
}

Result<void> BlockingFile::write_blocks(uint64_t offset, size_t bytes) {
    size_t done = 0;
    while (done < bytes) {
        const ssize_t put =
            pwrite(fd_, buffer_.get() + done, bytes - done, static_cast<off_t>(offset + done));
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return os_error(fmt::format("write {} at {}", name_, offset + done));
        if (put == 0) return os_error(EIO, fmt::format("write {} at {}", name_, offset + done));
        done += static_cast<size_t>(put);
        done -= done % kBlock;
    }
    return {};
}

Result<void> BlockingFile::read(uint64_t offset, std::span<std::byte> to) {
    while (!to.empty()) {
        const uint64_t block = offset / kBlock * kBlock;
        const auto skip = static_cast<size_t>(offset - block);
        const size_t share = std::min(to.size(), kBuffer - skip);
        TRY(read_blocks(block, (skip + share + kBlock - 1) / kBlock * kBlock));
        std::memcpy(to.data(), buffer_.get() + skip, share);
        to = to.subspan(share);
        offset += share;
    }
    return {};
}

Result<void> BlockingFile::write(uint64_t offset, std::span<const std::byte> from) {
    while (!from.empty()) {
        const uint64_t block = offset / kBlock * kBlock;
        const auto skip = static_cast<size_t>(offset - block);
        const size_t share = std::min(from.size(), kBuffer - skip);
        const size_t bytes = (skip + share + kBlock - 1) / kBlock * kBlock;
        if (skip != 0 || share != bytes) TRY(read_blocks(block, bytes));
        std::memcpy(buffer_.get() + skip, from.data(), share);
        TRY(write_blocks(block, bytes));
        from = from.subspan(share);
        offset += share;
    }
    return {};
}

Result<void> BlockingFile::sync() {
    if (fdatasync(fd_) != 0) return os_error("sync " + name_);
    return {};
}

Result<uint64_t> BlockingFile::size() const {
    struct stat about {};
    if (fstat(fd_, &about) != 0) return os_error("read the size of " + name_);
    auto bytes = static_cast<uint64_t>(about.st_size);
    if (S_ISBLK(about.st_mode) && ioctl(fd_, BLKGETSIZE64, &bytes) != 0) {
        return os_error("read the size of " + name_);
    }
    return bytes;
}

}  // namespace ringback::image::qcow2
