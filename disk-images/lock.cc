// SPDX-License-Identifier: Apache-2.0
#include "disk-images/lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>

#include <array>
#include <chrono>
#include <fstream>

namespace ringback::image {

namespace {

constexpr off_t kPermissionBase = 100;
constexpr off_t kUnsharedBase = 200;
constexpr std::array<const char*, 4> kPermissionNames{"consistent read", "write", "write unchanged",
                                                      "resize"};
constexpr unsigned kConsistentRead = 1U << 0;
constexpr unsigned kWrite = 1U << 1;
constexpr unsigned kResize = 1U << 3;
constexpr long kPauseNs = 5'000'000;

struct Permissions {
    unsigned used;
    unsigned unshared;
};

constexpr Permissions kReader{kConsistentRead, kWrite | kResize};
constexpr Permissions kWriter{kConsistentRead | kWrite | kResize, kWrite | kResize};

struct flock byte_range(short type, off_t start, off_t length) {
    struct flock range {};
    range.l_type = type;
    range.l_whence = SEEK_SET;
    range.l_start = start;
    range.l_len = length;
    return range;
}

void release(int fd) {
    struct flock all = byte_range(F_UNLCK, kPermissionBase, kUnsharedBase + 100 - kPermissionBase);
    (void)fcntl(fd, F_OFD_SETLK, &all);
    (void)flock(fd, LOCK_UN);
}

// Who holds a flock on the file, as far as /proc tells (a sandboxed process may not see it): "
// (blkback-worker, pid 7)".
std::string flock_holder(int fd) {
    struct stat file {};
    if (fstat(fd, &file) != 0) return {};
    const std::string wanted =
        fmt::format("{:02x}:{:02x}:{}", major(file.st_dev), minor(file.st_dev), file.st_ino);
    std::ifstream locks("/proc/locks");
    // "1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF"; a waiter has "->" as its second word.
    std::string number, kind, advisory, access, pid, inode, rest;
    while (locks >> number >> kind >> advisory >> access >> pid >> inode && std::getline(locks, rest)) {
        if (kind != "FLOCK" || inode != wanted) continue;
        std::string command;
        std::getline(std::ifstream("/proc/" + pid + "/comm"), command);
        return command.empty() ? fmt::format(" (pid {})", pid) : fmt::format(" ({}, pid {})", command, pid);
    }
    return {};
}

Result<void> hold(int fd, const std::string& name, off_t base, unsigned bits) {
    for (unsigned bit = 0; bit < kPermissionNames.size(); ++bit) {
        if ((bits & (1U << bit)) == 0) continue;
        struct flock range = byte_range(F_RDLCK, base + static_cast<off_t>(bit), 1);
        if (fcntl(fd, F_OFD_SETLK, &range) == 0) continue;
        if (errno != EAGAIN && errno != EACCES) return os_error(fmt::format("lock {}", name));
        return Error{EBUSY,
                     fmt::format("lock {}: in use by another program: it holds the file's \"{}\" lock for "
                                 "itself alone",
                                 name, kPermissionNames[bit])};
    }
    return {};
}

// Which of `bits` somebody else's locks stand against, in words; empty: none.
Result<std::string> conflict(int fd, const std::string& name, off_t base, unsigned bits) {
    for (unsigned bit = 0; bit < kPermissionNames.size(); ++bit) {
        if ((bits & (1U << bit)) == 0) continue;
        struct flock range = byte_range(F_WRLCK, base + static_cast<off_t>(bit), 1);
        if (fcntl(fd, F_OFD_GETLK, &range) != 0)
            return os_error(fmt::format("look at the locks of {}", name));
        if (range.l_type == F_UNLCK) continue;
        std::string what = fmt::format("\"{}\" access", kPermissionNames[bit]);
        // An OFD lock belongs to no process; a classic one names its own.
        if (range.l_pid > 0) what += fmt::format(" (pid {})", range.l_pid);
        return what;
    }
    return std::string{};
}

Result<void> exclude_other_programs(int fd, const std::string& name, Permissions mine) {
    TRY(hold(fd, name, kPermissionBase, mine.used));
    TRY(hold(fd, name, kUnsharedBase, mine.unshared));
    if (const std::string what = TRY(conflict(fd, name, kPermissionBase, mine.unshared)); !what.empty()) {
        return Error{EBUSY, fmt::format("lock {}: in use by another program: it has {}", name, what)};
    }
    if (const std::string what = TRY(conflict(fd, name, kUnsharedBase, mine.used)); !what.empty()) {
        return Error{EBUSY,
                     fmt::format("lock {}: in use by another program: it allows nobody else {}", name, what)};
    }
    return {};
}

Result<void> attempt(int fd, const std::string& name, bool writable) {
    if (flock(fd, (writable ? LOCK_EX : LOCK_SH) | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR) return os_error(fmt::format("lock {}", name));
        return Error{EBUSY, fmt::format("lock {}: in use by another program: it holds the file's flock{}",
                                        name, flock_holder(fd))};
    }
    return exclude_other_programs(fd, name, writable ? kWriter : kReader);
}

}  // namespace

Result<ImageLock> ImageLock::take(int fd, const std::string& name, bool writable, uint32_t wait_ms) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(wait_ms);
    for (;;) {
        Result<void> taken = attempt(fd, name, writable);
        if (taken.ok()) return ImageLock(fd);
        release(fd);
        if (taken.error().code != EBUSY || std::chrono::steady_clock::now() >= end) return taken.error();
        const timespec pause{0, kPauseNs};
        nanosleep(&pause, nullptr);
    }
}

ImageLock::~ImageLock() {
    if (fd_ >= 0) release(fd_);
}

}  // namespace ringback::image
