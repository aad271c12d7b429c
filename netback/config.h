// SPDX-License-Identifier: Apache-2.0
//
// Config: the settings of netbackd, from /etc/ringback/netbackd.toml.
//
// Every key has a default, so that the file may be absent or empty. A key that does not exist is refused by its name,
// with its line, and so is a value of the wrong type or out of range.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/result.h"

namespace ringback::net {

enum class WorkerStart : uint8_t {
    systemd,  // netback-worker.service
    fork,     // a child process: hosts without systemd, tests
};

struct Config {
    std::string runtime_directory = "/run/ringback";
    std::string control_group = "ringback";  // may use the control socket, beside root
    WorkerStart worker_start = WorkerStart::systemd;
    std::string worker_program = RINGBACK_NETBACK_WORKER_PROGRAM;

    uint32_t max_queues = 0;        // 0: the number of this machine's CPUs; never more than the protocol's 8
    uint32_t queue_length = 256;    // packets that wait for a guest, per queue of its TAP

    [[nodiscard]] std::string control_socket() const { return runtime_directory + "/netbackd.sock"; }
    [[nodiscard]] std::string worker_socket() const { return runtime_directory + "/netback-worker.sock"; }
    [[nodiscard]] std::string journal_directory() const { return runtime_directory + "/net"; }
};

inline constexpr const char* kConfigPath = "/etc/ringback/netbackd.toml";

// `origin` names the text in messages.
[[nodiscard]] Result<Config> parse_config(const std::string& text, const std::string& origin);
// An absent file at the default path is an empty one; at any other path it is an error.
[[nodiscard]] Result<Config> load_config(const std::string& path);

}  // namespace ringback::net
