// SPDX-License-Identifier: Apache-2.0
//
// Config: the settings of blkbackd, from /etc/ringback/blkbackd.toml.
//
// Every key has a default, so that the file may be absent or empty.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/daemon_config.h"
#include "runtime/result.h"

namespace ringback::blk {

struct Config : DaemonConfig {
    Config() : DaemonConfig("blkback", RINGBACK_WORKER_PROGRAM) {}

    std::string state_directory = "/var/lib/ringback";  // what outlives a restart of the host

    // Store directories whose devices are ours, relative to this domain's home.
    std::vector<std::string> roots{"backend/vbd", "backend/vbd3"};

    // What a guest's disk may be. The longest entry that holds the path decides, deny before allow when equal.
    std::vector<std::string> allow{"/"};
    // Where files may be that images name in their headers. None: in the image's own directory.
    std::vector<std::string> image_roots;
    std::vector<std::string> deny{"/proc", "/sys", "/etc", "/boot", "/run/ringback"};

    uint32_t max_queues = 0;         // 0: the number of this machine's CPUs; never more than the protocol's 16
    bool persistent_grants = true;   // feature-persistent
    bool barrier = true;             // feature-barrier, for frontends that know no flush
    uint32_t nbd_reconnect_seconds = 60;  // requests wait for a network disk's server that long

    [[nodiscard]] std::string throttle_file() const { return state_directory + "/throttle.json"; }
    [[nodiscard]] std::string journal_directory() const { return runtime_directory + "/blk"; }
};

inline constexpr const char* kConfigPath = "/etc/ringback/blkbackd.toml";

// `origin` names the text in messages.
[[nodiscard]] Result<Config> parse_config(const std::string& text, const std::string& origin);
// An absent file at the default path is an empty one; at any other path it is an error.
[[nodiscard]] Result<Config> load_config(const std::string& path);

}  // namespace ringback::blk
