// SPDX-License-Identifier: Apache-2.0
//
// Children: programs that a supervisor starts, and hears of when they end.
//
// They outlive whoever holds this: a worker goes on when its supervisor ends.
//
// Thread: the event loop's.
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "runtime/event_loop.h"
#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace ringback {

// Runs `arguments` (the first one looked for in PATH) with no signal blocked and SIGPIPE as it is by default.
[[nodiscard]] Result<pid_t> spawn(const std::vector<std::string>& arguments);

class Children {
  public:
    explicit Children(EventLoop& loop) : loop_(loop) {}
    ~Children();
    Children(const Children&) = delete;
    Children& operator=(const Children&) = delete;

    // `ended` is called once the child has ended and been waited for, with what waitpid() says.
    void watch(pid_t pid, std::function<void(int status)> ended);

  private:
    EventLoop& loop_;
    std::map<int, UniqueFd> handles_;  // pidfds
};

}  // namespace ringback
