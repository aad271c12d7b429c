// SPDX-License-Identifier: Apache-2.0
//
// A running embedded core for one test: its own directory, its own process, both gone when the test ends.
// Points RINGBACK_CORE (and XENSTORED_PATH for libxenstore) at it, so one test process has one core at a
// time.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "hypervisor/embedded/guest.h"
#include "hypervisor/embedded/toolstack.h"

namespace ringback::test {

class CoreProcess {
  public:
    explicit CoreProcess(std::vector<std::string> options = {});
    ~CoreProcess();
    CoreProcess(const CoreProcess&) = delete;
    CoreProcess& operator=(const CoreProcess&) = delete;

    const std::string& directory() const { return directory_; }
    std::string store_socket(unsigned domid = 0) const;
    pid_t pid() const { return pid_; }

  private:
    std::string directory_;
    pid_t pid_ = -1;
};

// A core, a toolstack on it, and one guest domain.
struct CoreWithGuest {
    explicit CoreWithGuest(std::vector<std::string> options = {}, xen::embedded::DomainSpec spec = {});

    CoreProcess core;
    xen::embedded::Toolstack toolstack;
    std::uint16_t domid;
    xen::embedded::Guest guest;
};

[[noreturn]] void fail_with(const Error& error);

// The value, or a failed test that shows the error.
template <typename T>
T must(Result<T> result) {
    if (!result.ok()) fail_with(result.error());
    return std::move(result).value();
}
inline void must(Result<void> result) {
    if (!result.ok()) fail_with(result.error());
}

// `step` again and again until `condition` holds; false after a minute, which the slowest machine does not need.
template <typename Condition, typename Step>
bool repeat_until(Condition condition, Step step) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!condition()) {
        if (std::chrono::steady_clock::now() > deadline) return false;
        step();
    }
    return true;
}
// For state that announces nothing (a deferred unmap).
template <typename Condition>
bool eventually(Condition condition) {
    return repeat_until(condition, [] { std::this_thread::sleep_for(std::chrono::milliseconds(1)); });
}

// A child process that a test kills or waits for. The child runs `body` and ends with its return value; it
// starts from a fork, so `body` opens its own handles.
class Child {
  public:
    template <typename Body>
    explicit Child(Body body) {
        start();
        if (pid_ == 0) finish(body(*this));
    }
    ~Child();
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;

    // In the child: tells the parent that a point was reached, with a number; then usually waits to be
    // killed.
    void report(std::uint64_t value);
    int wait_for_death();
    // In the parent: the next number reported; fails the test if the child ended instead.
    std::uint64_t next();
    // Both give the wait status.
    int kill();
    int wait();
    // Whether it has ended by itself; never waits.
    bool gone();

  private:
    void start();
    [[noreturn]] void finish(int status);

    pid_t pid_ = -1;
    int pipe_[2] = {-1, -1};
};

}  // namespace ringback::test
