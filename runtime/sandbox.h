// SPDX-License-Identifier: Apache-2.0
//
// Sandbox: what a worker gives up before it looks at a guest or an image.
//
// Called once, after everything privileged is open and before the reactor is enabled. Stages: locked memory limit raised
// as far as allowed (never fatal), no new privileges, no capabilities at all, no core dumps of guest data. Own uid,
// namespaces, seccomp and landlock are the systemd unit's part as far as it has them (packaging/).
#pragma once

#include <cstddef>

#include "runtime/result.h"

namespace ringback {

// locked_bytes: what the worker may want to lock for data buffers after the capabilities are gone.
[[nodiscard]] Result<void> enter_sandbox(size_t locked_bytes);

}  // namespace ringback
