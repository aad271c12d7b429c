// SPDX-License-Identifier: Apache-2.0
//
// Running another program to its end, without a shell: its output read whole, bounded in size and time.
//
// Thread: any; blocks.
#pragma once

#include <string>
#include <vector>

#include "runtime/result.h"

namespace ringback {

struct CommandOutput {
    int status = 0;    // its exit status; 127: it could not be started; 128 + n: ended by signal n
    std::string text;  // standard output
    std::string complaints;
};

// An Error only when no process could be made, or it had to be ended for its size or its time.
[[nodiscard]] Result<CommandOutput> run_command(const std::vector<std::string>& words);
// What it complained of, in one line, or what its status says. `package`: where it comes from.
[[nodiscard]] std::string explain(const CommandOutput& output, const std::vector<std::string>& words, const std::string& package);

}  // namespace ringback
