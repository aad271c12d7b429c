// SPDX-License-Identifier: Apache-2.0
//
// Config: the settings of netbackd, from /etc/ringback/netbackd.toml.
//
// Every key has a default, so that the file may be absent or empty.
#pragma once

#include <cstdint>
#include <string>

#include "mac-pool/config.h"
#include "runtime/daemon_config.h"
#include "runtime/result.h"

namespace ringback::net {

struct Config : DaemonConfig {
    Config() : DaemonConfig("netback", RINGBACK_NETBACK_WORKER_PROGRAM) {}

    // Empty address: no pool is asked. macpool's own configuration is not read: what this daemon does is in its file.
    mac::Config mac_pool{.url = {}, .credentials = mac::kCredentialsPath};

    uint32_t max_queues = 0;        // 0: the number of this machine's CPUs; never more than the protocol's 8
    uint32_t queue_length = 256;    // packets that wait for a guest, per queue of its TAP

    [[nodiscard]] std::string journal_directory() const { return runtime_directory + "/net"; }
};

inline constexpr const char* kConfigPath = "/etc/ringback/netbackd.toml";

// `origin` names the text in messages.
[[nodiscard]] Result<Config> parse_config(const std::string& text, const std::string& origin);
// An absent file at the default path is an empty one; at any other path it is an error.
[[nodiscard]] Result<Config> load_config(const std::string& path);

}  // namespace ringback::net
