// SPDX-License-Identifier: Apache-2.0
#include "disk-images/sync_io.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

namespace ringback::image {

SyncIo::SyncIo(int fd, std::string name) : fd_(fd), name_(std::move(name)), flags_(fcntl(fd, F_GETFL)) {
    if (flags_ >= 0 && ((flags_ & O_DIRECT) == 0 || fcntl(fd_, F_SETFL, flags_ & ~O_DIRECT) != 0)) flags_ = -1;
}

SyncIo::~SyncIo() {
    if (flags_ >= 0) (void)fcntl(fd_, F_SETFL, flags_);
}

Result<uint64_t> SyncIo::size() const {
    struct stat about {};
    if (fstat(fd_, &about) != 0) return os_error(fmt::format("read the size of {}", name_));
    uint64_t bytes = static_cast<uint64_t>(about.st_size);
    if (S_ISBLK(about.st_mode) && ioctl(fd_, BLKGETSIZE64, &bytes) != 0) {
        return os_error(fmt::format("read the size of {}", name_));
    }
    return bytes;
}

Result<void> SyncIo::read(uint64_t offset, std::span<std::byte> to) const {
    while (!to.empty()) {
        const ssize_t got = pread(fd_, to.data(), to.size(), static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return os_error(fmt::format("read {} at {}", name_, offset));
        if (got == 0) return Error{EIO, fmt::format("read {} at {}: the file ends there", name_, offset)};
        offset += static_cast<uint64_t>(got);
        to = to.subspan(static_cast<size_t>(got));
    }
    return {};
}

Result<void> SyncIo::write(uint64_t offset, std::span<const std::byte> from) const {
    while (!from.empty()) {
        const ssize_t done = pwrite(fd_, from.data(), from.size(), static_cast<off_t>(offset));
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return os_error(fmt::format("write {} at {}", name_, offset));
        if (done == 0) return Error{EIO, fmt::format("write {} at {}: nothing was written", name_, offset)};
        offset += static_cast<uint64_t>(done);
        from = from.subspan(static_cast<size_t>(done));
    }
    return {};
}

uint64_t SyncIo::data_bytes(uint64_t begin, uint64_t end) const {
    uint64_t bytes = 0;
    for (uint64_t at = begin; at < end;) {
        const off_t data = lseek(fd_, static_cast<off_t>(at), SEEK_DATA);
        if (data < 0 && errno == ENXIO) break;
        if (data < 0) return end - begin;
        const off_t hole = lseek(fd_, data, SEEK_HOLE);
        if (hole < 0) return end - begin;
        const uint64_t first = std::min(static_cast<uint64_t>(data), end);
        at = std::min(static_cast<uint64_t>(hole), end);
        bytes += at - first;
    }
    return bytes;
}

Result<void> SyncIo::truncate(uint64_t bytes) const {
    if (ftruncate(fd_, static_cast<off_t>(bytes)) != 0) {
        return os_error(fmt::format("resize the file {} to {} bytes", name_, bytes));
    }
    return {};
}

Result<void> SyncIo::sync() const {
    if (fdatasync(fd_) != 0) return os_error(fmt::format("sync {}", name_));
    return {};
}

}  // namespace ringback::image
