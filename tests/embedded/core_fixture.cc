// SPDX-License-Identifier: Apache-2.0
//
// See core_fixture.h.
#include "core_fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch_test_macros.hpp>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>

namespace ringback::test {
namespace {

constexpr int kStartTimeoutMs = 20000;
constexpr int kReportTimeoutMs = 20000;

bool readable(int fd, int timeout_ms) {
    pollfd p{fd, POLLIN, 0};
    int n;
    do {
        n = ::poll(&p, 1, timeout_ms);
    } while (n < 0 && errno == EINTR);
    return n == 1;
}

}  // namespace

CoreProcess::CoreProcess(std::vector<std::string> options) {
    std::string name = (std::filesystem::temp_directory_path() / "ringback-core-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp " + name);
    directory_ = name;
    int ready[2];
    if (::pipe2(ready, O_CLOEXEC) != 0) throw std::runtime_error("pipe2");
    std::vector<std::string> words = {RINGBACK_CORE_BINARY, "--directory", directory_,
                                      "--exit-with-parent", "--ready-fd",  "3"};
    words.insert(words.end(), options.begin(), options.end());
    pid_ = ::fork();
    if (pid_ == 0) {
        std::vector<char*> argv;
        for (std::string& word : words)
            argv.push_back(word.data());
        argv.push_back(nullptr);
        if (ready[1] == 3)
            ::fcntl(3, F_SETFD, 0);
        else
            ::dup2(ready[1], 3);
        ::execv(argv[0], argv.data());
        ::_exit(127);
    }
    ::close(ready[1]);
    char byte = 0;
    const bool started = readable(ready[0], kStartTimeoutMs) && ::read(ready[0], &byte, 1) == 1;
    ::close(ready[0]);
    if (!started) throw std::runtime_error(std::string("could not start ") + RINGBACK_CORE_BINARY);
    ::setenv("RINGBACK_CORE", directory_.c_str(), 1);
    ::setenv("XENSTORED_PATH", store_socket().c_str(), 1);
}

CoreProcess::~CoreProcess() {
    ::kill(pid_, SIGTERM);
    ::waitpid(pid_, nullptr, 0);
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
}

std::string CoreProcess::store_socket(unsigned domid) const {
    return directory_ + (domid == 0 ? "/store" : "/store." + std::to_string(domid));
}

CoreWithGuest::CoreWithGuest(std::vector<std::string> options, xen::embedded::DomainSpec spec)
    : core(std::move(options)),
      toolstack(must(xen::embedded::Toolstack::connect())),
      domid(must(toolstack.create_domain(spec))),
      guest(must(xen::embedded::Guest::connect(domid))) {}

void fail_with(const Error& error) {
    FAIL(error.message);
    ::abort();
}

void Child::start() {
    if (::pipe2(pipe_, O_CLOEXEC) != 0) throw std::runtime_error("pipe2");
    pid_ = ::fork();
    if (pid_ < 0) throw std::runtime_error("fork");
    const int unused = pid_ == 0 ? 0 : 1;
    ::close(pipe_[unused]);
    pipe_[unused] = -1;
    if (pid_ == 0) ::prctl(PR_SET_PDEATHSIG, SIGKILL);
}

void Child::finish(int status) {
    ::_exit(status);
}

Child::~Child() {
    kill();
    if (pipe_[0] >= 0) ::close(pipe_[0]);
}

void Child::report(std::uint64_t value) {
    if (::write(pipe_[1], &value, sizeof value) != sizeof value) ::_exit(126);
}

int Child::wait_for_death() {
    for (;;)
        ::pause();
}

std::uint64_t Child::next() {
    std::uint64_t value = 0;
    REQUIRE(readable(pipe_[0], kReportTimeoutMs));
    REQUIRE(::read(pipe_[0], &value, sizeof value) == sizeof value);
    return value;
}

int Child::kill() {
    if (pid_ > 0) ::kill(pid_, SIGKILL);
    return wait();
}

bool Child::gone() {
    if (pid_ > 0 && ::waitpid(pid_, nullptr, WNOHANG) == pid_) pid_ = -1;
    return pid_ < 0;
}

int Child::wait() {
    int status = 0;
    if (pid_ > 0)
        while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
        }
    pid_ = -1;
    return status;
}

}  // namespace ringback::test
