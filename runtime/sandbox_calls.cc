// SPDX-License-Identifier: Apache-2.0
//
// The system calls that are left to a worker. By what needs them, so that a line can be taken away with its reason. What is not
// here fails with EPERM: a call that was forgotten is an error to one request, and no outage.
#include <asm/ioctls.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <seccomp.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <memory>

#include "runtime/sandbox_stages.h"

namespace ringback {

namespace {

constexpr std::array kCalls{
    // The reactor.
    SCMP_SYS(io_uring_enter), SCMP_SYS(io_uring_register),
    // The supervisor's channel, and that it is called again.
    SCMP_SYS(connect), SCMP_SYS(sendmsg), SCMP_SYS(recvmsg), SCMP_SYS(sendto), SCMP_SYS(recvfrom), SCMP_SYS(getsockopt),
    SCMP_SYS(setsockopt), SCMP_SYS(shutdown), SCMP_SYS(poll), SCMP_SYS(ppoll),
    // Event channels, grants and files, by descriptors that are open.
    SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(pread64), SCMP_SYS(pwrite64), SCMP_SYS(preadv),
    SCMP_SYS(pwritev), SCMP_SYS(preadv2), SCMP_SYS(pwritev2), SCMP_SYS(lseek), SCMP_SYS(fsync), SCMP_SYS(fdatasync),
    SCMP_SYS(fallocate), SCMP_SYS(ftruncate), SCMP_SYS(fstat), SCMP_SYS(newfstatat), SCMP_SYS(statx), SCMP_SYS(fcntl),
    SCMP_SYS(flock), SCMP_SYS(dup), SCMP_SYS(dup3), SCMP_SYS(close), SCMP_SYS(eventfd2),
    // The embedded core's event channels (docs/embedded-core.md).
    SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait),
    // What sandbox_files.cc leaves to be read.
    SCMP_SYS(openat), SCMP_SYS(open),
    // Memory. Not executable: see below.
    SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(mlock), SCMP_SYS(munlock),
    // A thread for discards, and what the C library does for threads.
    SCMP_SYS(clone3), SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(futex), SCMP_SYS(sched_yield), SCMP_SYS(sched_getaffinity),
    SCMP_SYS(exit), SCMP_SYS(exit_group), SCMP_SYS(restart_syscall), SCMP_SYS(membarrier),
    // Time, chance, who we are, and how we end.
    SCMP_SYS(clock_gettime), SCMP_SYS(clock_nanosleep), SCMP_SYS(nanosleep), SCMP_SYS(gettimeofday), SCMP_SYS(getrandom),
    SCMP_SYS(getpid), SCMP_SYS(gettid), SCMP_SYS(getuid), SCMP_SYS(geteuid), SCMP_SYS(uname), SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn), SCMP_SYS(sigaltstack), SCMP_SYS(tgkill),
};

struct Released {
    void operator()(void* filter) const { seccomp_release(filter); }
};

}  // namespace

Result<void> give_up_calls() {
    const std::unique_ptr<void, Released> filter(seccomp_init(SCMP_ACT_ERRNO(EPERM)));
    if (!filter) return os_error(ENOMEM, "make a system call filter");
    int failed = 0;
    const auto allow = [&](int call, auto... conditions) {
        const int rc = seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, call, sizeof...(conditions), conditions...);
        if (rc < 0 && failed == 0) failed = rc;
    };
    for (const int call : kCalls) allow(call);
    allow(SCMP_SYS(socket), SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
    // Older C libraries make threads by clone; a new process would not have this flag.
    constexpr uint64_t kThread = 0x00010000;
    allow(SCMP_SYS(clone), SCMP_A0(SCMP_CMP_MASKED_EQ, kThread, kThread));
    constexpr uint64_t kExecutable = 4;
    allow(SCMP_SYS(mmap), SCMP_A2(SCMP_CMP_MASKED_EQ, kExecutable, 0));
    allow(SCMP_SYS(mprotect), SCMP_A2(SCMP_CMP_MASKED_EQ, kExecutable, 0));
    // Of gntdev and evtchn (types 'G' and 'E' with all numbers), and of block devices.
    for (const uint64_t type : {'G', 'E'}) allow(SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_MASKED_EQ, 0xff00, type << 8));
    for (const uint64_t request : {uint64_t{BLKGETSIZE64}, uint64_t{BLKSSZGET}, uint64_t{BLKPBSZGET}, uint64_t{BLKDISCARD}}) {
        allow(SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_EQ, request));
    }
    if (failed == 0) failed = seccomp_load(filter.get());
    if (failed < 0) return os_error(-failed, "load the system call filter");
    return {};
}

}  // namespace ringback
