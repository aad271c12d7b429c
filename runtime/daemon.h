// SPDX-License-Identifier: Apache-2.0
//
// What the main() of every supervisor does beside its own work: its command line, its signals, what systemd is told.
#pragma once

#include <functional>
#include <string>
#include <variant>

#include "runtime/daemon_config.h"
#include "runtime/event_loop.h"
#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace ringback {

struct DaemonText {
    const char* name;        // blkbackd
    const char* about;       // for --help
    const char* spawn_flag;  // --spawn-workers
    const char* config_path;
    const char* farewell;    // what the workers do when it ends
};

struct DaemonOptions {
    std::string config_path;
    bool check = false;  // the configuration, and end
    bool spawn_workers = false;
    std::string worker_program;
    std::string runtime_directory;

    // What was said on the command line instead of in the file.
    void apply(DaemonConfig& config) const;
};

// A number: the process ends with this status.
[[nodiscard]] std::variant<DaemonOptions, int> parse_command_line(const DaemonText& text, int argc, char** argv);
// SIGTERM and SIGINT stop the loop, for as long as the descriptor lives; SIGPIPE is ignored.
[[nodiscard]] Result<UniqueFd> take_signals(EventLoop& loop);
void run_daemon(const DaemonText& text, EventLoop& loop, const std::function<void()>& before_wait);
// The status to end with.
[[nodiscard]] int exit_status(const Result<void>& served);

}  // namespace ringback
