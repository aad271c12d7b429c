// SPDX-License-Identifier: Apache-2.0
//
// Sandbox: what a worker gives up before it looks at a guest or an image.
//
// Called once, by the only thread there is, after everything privileged is open and before the reactor is enabled. Stages, in the
// order in which each still may do what it does: the locked memory limit, a user of its own, no capabilities and no way to get
// any, no core dumps of guest data, no files (sandbox_files.cc, landlock), no system calls but those that serving disks needs
// (sandbox_calls.cc, seccomp). Network and mounts are the systemd unit's part (packaging/). docs/threat-model.md says what
// each is worth.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <optional>

#include "runtime/result.h"

namespace ringback {

struct Identity {
    uid_t user;
    gid_t group;
};

struct Sandbox {
    size_t locked_bytes = 0;           // what the worker may want to lock for data buffers, when it may no longer ask
    std::optional<Identity> identity;  // none: stay who we are (where no service manager starts us)
    bool files_and_calls = true;       // false: keep them
};

[[nodiscard]] Result<void> enter_sandbox(const Sandbox& sandbox);

}  // namespace ringback
