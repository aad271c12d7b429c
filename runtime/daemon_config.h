// SPDX-License-Identifier: Apache-2.0
//
// DaemonConfig: the settings that every supervisor has, whatever its workers serve.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "runtime/result.h"
#include "runtime/settings.h"
#include "runtime/unique_fd.h"

namespace ringback {

enum class WorkerStart : uint8_t {
    systemd,  // a unit of its own: the guest's slice and accounting
    fork,     // a child process: hosts without systemd, tests
};

[[nodiscard]] const char* to_string(WorkerStart start);

struct DaemonConfig {
    DaemonConfig(std::string house, std::string worker) : name(std::move(house)), worker_program(std::move(worker)) {}

    std::string name;  // blkback: of blkbackd and blkback-worker
    std::string runtime_directory = "/run/ringback";
    std::string control_group = "ringback";  // may use the control socket, beside root
    WorkerStart worker_start = WorkerStart::systemd;
    std::string worker_program;

    [[nodiscard]] std::string control_socket() const { return runtime_directory + "/" + name + "d.sock"; }
    [[nodiscard]] std::string worker_socket() const { return runtime_directory + "/" + name + "-worker.sock"; }

    [[nodiscard]] Result<void> take(const Setting& setting);
};

// Makes the directories, and keeps a second daemon of this name out for as long as the descriptor lives.
[[nodiscard]] Result<UniqueFd> claim_directories(const DaemonConfig& config, const std::string& journal_directory);

}  // namespace ringback
