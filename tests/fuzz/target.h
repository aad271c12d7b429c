// SPDX-License-Identifier: Apache-2.0
//
// What every target shares. A target is one function; libFuzzer's main() calls it:
//
//     extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size)
//
// Each execution starts from the same state and ends in it, so that an input that fails fails alone.
#pragma once

#include <time.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <utility>

#include "input.h"
#include "runtime/check.h"
#include "runtime/reactor.h"
#include "runtime/result.h"

namespace ringback::fuzz {

template <typename T>
T must(Result<T> result) {
    if (!result) std::fprintf(stderr, "%s\n", result.error().message.c_str());
    INVARIANT(result.ok());
    return std::move(result).value();
}

// One for all executions: to make one costs more than anything an execution does.
inline Reactor& reactor() {
    static const std::unique_ptr<Reactor> only = [] {
        auto made = must(Reactor::create({.entries = 256, .files = 64, .buffers = 16}));
        INVARIANT(made->start().ok());
        return made;
    }();
    return *only;
}

// Turns the reactor until `condition` holds; what does not end is a finding. The kernel does some requests (a sync, a hole) in a
// thread of its own, which may want the processor first.
template <typename Condition>
void turn_until(Condition condition) {
    constexpr timespec kPause{0, 50'000};
    for (int turns = 0; !condition(); ++turns) {
        INVARIANT(turns < 100'000);
        reactor().turn(false);
        if (turns > 50) nanosleep(&kPause, nullptr);
    }
}

// The same where the kernel is all that is waited for: whoever hangs here hangs for good, which libFuzzer's -timeout tells.
template <typename Condition>
void wait_until(Condition condition) {
    while (!condition()) reactor().turn(reactor().in_flight() > 0);
}

// The sum of what an execution allocates and holds at one time. More than `bytes` ends the process: a header or a message made
// us take more than it justifies.
class MemoryLimit {
  public:
    explicit MemoryLimit(size_t bytes);
    ~MemoryLimit();
    MemoryLimit(const MemoryLimit&) = delete;
    MemoryLimit& operator=(const MemoryLimit&) = delete;
};

}  // namespace ringback::fuzz
