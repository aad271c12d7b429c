// SPDX-License-Identifier: Apache-2.0
//
// `ringback doctor`: what is wrong with this host, and the command that mends it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace ringback::tools {

struct Finding {
    bool good;
    std::string what;
    std::string mend;  // a command; empty when it is good
};

// Where to look: this host, or in tests a folder that looks like one.
struct Host {
    [[nodiscard]] static Host this_one(const std::string& socket, const std::string& net_socket);

    std::string root;  // before every path: "" or a folder
    std::string kernel;
    uint64_t open_files = 0;  // a process may have
    std::string socket;       // of blkbackd
    std::string net_socket;   // of netbackd; not there: networks are the kernel's
};

[[nodiscard]] std::vector<Finding> examine(const Host& host);

}  // namespace ringback::tools
