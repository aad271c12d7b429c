// SPDX-License-Identifier: Apache-2.0
//
// The stages of the sandbox that are files of their own. Of the calling thread and those it starts.
#pragma once

#include "runtime/result.h"

namespace ringback {

// Nothing can be opened, made, renamed or removed any more, but a few things of the kernel's can be read. A kernel without
// landlock is told of in the log and lived with: the other stages stand. no_new_privs is set.
[[nodiscard]] Result<void> give_up_files();

// All system calls but those of sandbox_calls.cc fail with EPERM from here on. no_new_privs is set.
[[nodiscard]] Result<void> give_up_calls();

}  // namespace ringback
