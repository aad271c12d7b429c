// SPDX-License-Identifier: Apache-2.0
#include "disk-images/raw/geometry.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <bit>
#include <fstream>

#include "runtime/log.h"

namespace ringback::image {

namespace {

constexpr uint32_t kPage = 4096;
constexpr uint32_t kLargestHole = 65536;

uint32_t power_of_two_within(uint64_t value, uint32_t low, uint32_t high) {
    return static_cast<uint32_t>(
        std::clamp<uint64_t>(std::bit_floor(std::max<uint64_t>(value, 1)), low, high));
}

// The smallest alignment of offset and length, and of memory, that a direct read accepts.
Result<void> probe_by_reading(const File& file, RawLayout& layout) {
    alignas(kPage) std::array<char, size_t{2} * kPage> memory;
    const int fd = file.fd.get();
    uint32_t unit = kSectorSize;
    while (unit <= kPage && pread(fd, memory.data(), unit, 0) < 0 && errno == EINVAL)
        unit *= 2;
    if (unit > kPage)
        return os_error(EINVAL, fmt::format("open {}: direct I/O, even of 4096 bytes", file.name));
    uint32_t align = kSectorSize;
    while (align < kPage && pread(fd, memory.data() + align, unit, 0) < 0 && errno == EINVAL)
        align *= 2;
    layout.unit = unit;
    layout.memory_align = align;
    return {};
}

Result<void> probe_direct(const File& file, RawLayout& layout) {
    struct statx about {};
    if (statx(file.fd.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &about) != 0 ||
        (about.stx_mask & STATX_DIOALIGN) == 0) {
        return probe_by_reading(file, layout);
    }
    // 0: the file system takes such requests and buffers them all the same.
    layout.unit = std::max(about.stx_dio_offset_align, kSectorSize);
    layout.memory_align = std::max(about.stx_dio_mem_align, kSectorSize);
    return {};
}

Result<void> switch_to_buffered(const File& file, RawLayout& layout) {
    log::notice(
        "{}: its size is no multiple of {} bytes, which direct I/O needs there; served through the page "
        "cache",
        file.name, layout.unit);
    const int flags = fcntl(file.fd.get(), F_GETFL);
    if (flags < 0 || fcntl(file.fd.get(), F_SETFL, flags & ~O_DIRECT) != 0) {
        return os_error(fmt::format("switch {} to buffered I/O", file.name));
    }
    layout.direct = false;
    layout.unit = layout.memory_align = kSectorSize;
    return {};
}

uint64_t sysfs_number(dev_t device, const char* attribute, uint64_t otherwise) {
    // A partition has its own discard_alignment; the queue is its disk's.
    for (const char* where : {"", "queue/", "../queue/"}) {
        std::ifstream file(
            fmt::format("/sys/dev/block/{}:{}/{}{}", major(device), minor(device), where, attribute));
        uint64_t value = 0;
        if (file >> value) return value;
    }
    return otherwise;
}

// BLKDISCARD looks first whether the device can discard, then at the range; this range is wrong in any case.
bool device_discards(int fd) {
    std::array<uint64_t, 2> range{1, 0};
    return ioctl(fd, BLKDISCARD, range.data()) != 0 && errno == EINVAL;
}

Result<void> probe_device(const File& file, dev_t device, RawLayout& layout, bool discard) {
    int logical = 0;
    unsigned physical = 0;
    const int fd = file.fd.get();
    if (ioctl(fd, BLKSSZGET, &logical) != 0)
        return os_error(fmt::format("read the sector size of {}", file.name));
    if (ioctl(fd, BLKPBSZGET, &physical) != 0) physical = 0;
    Geometry& geometry = layout.geometry;
    geometry.logical_block = std::max(static_cast<uint32_t>(logical), kSectorSize);
    geometry.physical_block = std::max(physical, geometry.logical_block);
    if (layout.direct) layout.unit = std::max(layout.unit, geometry.logical_block);
    geometry.discard = discard && device_discards(fd);
    if (geometry.discard) {
        geometry.discard_granularity = static_cast<uint32_t>(std::max<uint64_t>(
            sysfs_number(device, "discard_granularity", geometry.physical_block), geometry.logical_block));
        geometry.discard_alignment = static_cast<uint32_t>(sysfs_number(device, "discard_alignment", 0));
    }
    return {};
}

void describe_file(const struct stat& about, RawLayout& layout, bool discard) {
    Geometry& geometry = layout.geometry;
    geometry.logical_block = layout.unit;
    // File systems serialise direct writes of less than their block, and the page cache reads the rest of a
    // page first.
    geometry.physical_block = std::max(
        power_of_two_within(static_cast<uint64_t>(about.st_blksize), kSectorSize, kPage), layout.unit);
    geometry.discard = discard;
    if (discard) {
        geometry.discard_granularity =
            power_of_two_within(static_cast<uint64_t>(about.st_blksize), kPage, kLargestHole);
    }
}

}  // namespace

Result<uint64_t> read_size(const File& file, bool block_device) {
    uint64_t bytes = 0;
    if (block_device) {
        if (ioctl(file.fd.get(), BLKGETSIZE64, &bytes) != 0)
            return os_error(fmt::format("read the size of {}", file.name));
    } else {
        struct stat about {};
        if (fstat(file.fd.get(), &about) != 0) return os_error(fmt::format("read the size of {}", file.name));
        bytes = static_cast<uint64_t>(about.st_size);
    }
    return bytes / kSectorSize * kSectorSize;
}

Result<RawLayout> probe_layout(const File& file, const OpenOptions& options) {
    struct stat about {};
    if (fstat(file.fd.get(), &about) != 0) return os_error(fmt::format("open {}", file.name));
    if (S_ISDIR(about.st_mode)) return Error{EISDIR, fmt::format("open {}: is a directory", file.name)};
    if (!S_ISREG(about.st_mode) && !S_ISBLK(about.st_mode)) {
        return Error{EINVAL, fmt::format("open {}: is neither a regular file nor a block device", file.name)};
    }
    const int flags = fcntl(file.fd.get(), F_GETFL);
    if (flags < 0) return os_error(fmt::format("open {}", file.name));
    if (options.writable && (flags & O_ACCMODE) != O_RDWR) {
        return Error{EROFS, fmt::format("open {}: the disk is writable, the file is open for reading only",
                                        file.name)};
    }
    RawLayout layout;
    layout.block_device = S_ISBLK(about.st_mode);
    layout.direct = (flags & O_DIRECT) != 0;
    layout.geometry.bytes = TRY(read_size(file, layout.block_device));
    if (layout.geometry.bytes == 0) {
        return Error{EINVAL, fmt::format("open {}: is empty (less than one sector of {} bytes)", file.name,
                                         kSectorSize)};
    }
    const bool discard = options.discard && options.writable;
    if (layout.direct) {
        TRY(probe_direct(file, layout));
        if (layout.geometry.bytes % layout.unit != 0) TRY(switch_to_buffered(file, layout));
    }
    if (layout.block_device) {
        TRY(probe_device(file, about.st_rdev, layout, discard));
    } else {
        describe_file(about, layout, discard);
    }
    return layout;
}

}  // namespace ringback::image
