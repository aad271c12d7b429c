// SPDX-License-Identifier: Apache-2.0
//
// What a worker cannot do any more. Each attempt is made by a process of its own, once before it enters the sandbox, where it has
// to succeed, and once after.
#include <fcntl.h>
#include <liburing.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <catch2/catch_test_macros.hpp>
#include <cerrno>
#include <string>
#include <thread>

#include "runtime/reactor.h"
#include "runtime/sandbox.h"
#include "runtime/unique_fd.h"

using namespace ringback;

namespace {

constexpr int kNoSandbox = 200;

void skip_if_sanitized() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    SKIP("a sanitizer needs what the sandbox takes away");
#endif
}

// 0: it was done; an errno value else.
template <typename Attempt>
int outcome(bool inside, Attempt attempt, Sandbox sandbox = {}) {
    const pid_t child = ::fork();
    if (child == 0) {
        if (inside && !enter_sandbox(sandbox)) ::_exit(kNoSandbox);
        ::_exit(attempt() ? 0 : errno);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFEXITED(status));
    return WEXITSTATUS(status);
}

bool opens(const char* path, int flags = O_RDONLY) { return UniqueFd(::open(path, flags | O_CLOEXEC, 0600)).get() >= 0; }

bool makes_socket(int family) { return UniqueFd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0)).get() >= 0; }

struct Done : Completion {
    int32_t result = 1;
    static void set(Completion& self, int32_t result, uint32_t) noexcept { static_cast<Done&>(self).result = result; }
    Done() { on_complete = set; }
};

// What the ring answers to this request, as errno.
template <typename Prepare>
bool by_ring(Reactor& reactor, Prepare prepare) {
    Done done;
    if (!reactor.start()) return false;
    reactor.submit(done, prepare);
    while (done.result == 1) reactor.turn(true);
    errno = -done.result;
    return done.result >= 0;
}

}  // namespace

TEST_CASE("files, sockets of the network, programs, executable memory and other processes are gone") {
    skip_if_sanitized();
    const auto read_file = [] { return opens("/etc/passwd"); };
    const auto read_process = [] { return opens("/proc/1/cmdline"); };
    const auto make_file = [] { return opens("/tmp/ringback-sandbox", O_CREAT | O_WRONLY) && ::unlink("/tmp/ringback-sandbox") == 0; };
    const auto network = [] { return makes_socket(AF_INET); };
    const auto executable = [] {
        return ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED;
    };
    const auto program = [] {
        const pid_t child = ::vfork();
        if (child == 0) ::_exit(0);
        if (child < 0) return false;
        return ::waitpid(child, nullptr, 0) == child;
    };
    const auto exchange = [](auto attempt, int refused) {
        CHECK(outcome(false, attempt) == 0);
        CHECK(outcome(true, attempt) == refused);
    };
    exchange(read_file, EACCES);
    exchange(read_process, EACCES);
    exchange(make_file, EACCES);
    exchange(network, EPERM);
    exchange(executable, EPERM);
    exchange(program, EPERM);
    exchange([] { return ::execl("/bin/true", "true", nullptr) == 0; }, EPERM);
    exchange([] { return ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0; }, EPERM);
    exchange([] { return ::kill(::getppid(), 0) == 0; }, EPERM);
}

TEST_CASE("what serving disks needs is left") {
    skip_if_sanitized();
    const auto left = [](auto attempt) { CHECK(outcome(true, attempt) == 0); };
    left([] { return makes_socket(AF_UNIX); });
    left([] { return opens("/proc/locks"); });
    left([] { return opens("/proc/sys/kernel/random/boot_id"); });
    left([] { return ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED; });
    left([] {
        bool ran = false;
        std::thread([&ran] { ran = true; }).join();
        return ran;
    });
}

TEST_CASE("it becomes another user for good, without capabilities or core dumps") {
    if (::geteuid() != 0) SKIP("only root may become others");
    constexpr Identity kOther{1'880'000'007, 1'880'000'000};
    const auto changed = [&] { return ::getuid() == kOther.user && ::geteuid() == kOther.user; };
    Sandbox other;
    other.identity = kOther;
    CHECK(outcome(true, changed, other) == 0);
    CHECK(outcome(true, [] { return ::setuid(0) == 0; }, other) == EPERM);
}

TEST_CASE("a ring opens no files and calls nobody") {
    auto reactor = std::move(Reactor::create({})).value();
    SECTION("openat") {
        CHECK_FALSE(by_ring(*reactor, [](io_uring_sqe* sqe) { io_uring_prep_openat(sqe, AT_FDCWD, "/etc/passwd", O_RDONLY, 0); }));
        CHECK(errno == EACCES);
    }
    SECTION("socket") {
        CHECK_FALSE(by_ring(*reactor, [](io_uring_sqe* sqe) { io_uring_prep_socket(sqe, AF_INET, SOCK_STREAM, 0, 0); }));
        CHECK(errno == EACCES);
    }
    SECTION("reading is left") {
        const UniqueFd file(::open("/etc/passwd", O_RDONLY | O_CLOEXEC));
        std::array<char, 16> bytes{};
        CHECK(by_ring(*reactor, [&](io_uring_sqe* sqe) { io_uring_prep_read(sqe, file.get(), bytes.data(), bytes.size(), 0); }));
    }
}
