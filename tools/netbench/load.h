// SPDX-License-Identifier: Apache-2.0
//
// Load: frames from one endpoint to another at a rate, or as many as go, and what became of them.
//
// Sending and receiving take turns in one thread, or (`split`) have a thread each, for what forwards in its sender's own time
// and so would leave a core idle. A third endpoint may flood meanwhile.
#pragma once

#include "tools/netbench/endpoint.h"

namespace ringback::netbench {

struct Ends {
    Endpoint* from = nullptr;
    Endpoint* to = nullptr;
    Endpoint* flood = nullptr;  // may be null
    bool split = false;
};

struct Job {
    std::vector<size_t> sizes{kSmallest};
    double seconds = 1;
    double rate = 0;  // frames a second; 0: as many as go
    bool flood = false;
};

struct Outcome {
    explicit Outcome(uint16_t run) : tally(run) {}
    uint64_t sent = 0, sent_bytes = 0;
    uint64_t flooded = 0;
    double seconds = 0;      // of sending
    double cpu_seconds = 0;  // of this process, what the kernel does in its name too
    Tally tally;
};

// Both ends know each other: something of each has arrived at the other.
[[nodiscard]] Result<void> meet(const Ends& ends, double patience_seconds);
[[nodiscard]] Result<Outcome> run(const Ends& ends, const Job& job, uint16_t number);

}  // namespace ringback::netbench
