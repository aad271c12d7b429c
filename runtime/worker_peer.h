// SPDX-License-Identifier: Apache-2.0
//
// Who it is that connected to the workers' socket, by the kernel's word and not by what is said there.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <string>

#include "runtime/daemon_config.h"
#include "runtime/result.h"

namespace ringback {

[[nodiscard]] ucred peer_of(int socket);
// Its process, if it is a worker: under systemd one in the control group of `unit`, else `child` (0: none is expected)
// or any other process of our user that runs our worker program.
[[nodiscard]] Result<pid_t> check_worker(int socket, const DaemonConfig& config, const std::string& unit, pid_t child);

}  // namespace ringback
