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

    // [switch]: the built-in switches, which all have the same settings.
    std::string switch_names;           // with blanks between them
    uint32_t switch_check_source = 1;   // a guest sends from its own MAC address only
    uint32_t switch_floods = 2000;      // broadcasts, multicasts, unknown destinations a second, per vif; 0: no limit
    uint32_t switch_kilobytes = 0;      // that a vif may send, a second; 0: no limit
    uint32_t switch_table = 4096;       // addresses that a switch knows
    uint32_t switch_ageing = 300;       // seconds for which a learned one counts
    uint32_t switch_address_wait = 30;  // seconds for which a vif waits for one with its address to go

    // [ovs-dpdk]: bridges of Open vSwitch, of its DPDK datapath.
    std::string ovs_bridges;  // with blanks between them
    std::string ovs_database = "unix:/run/openvswitch/db.sock";

    [[nodiscard]] bool has_switch(const std::string& name) const;
    [[nodiscard]] bool has_ovs_bridge(const std::string& name) const;
    [[nodiscard]] std::string journal_directory() const { return runtime_directory + "/net"; }
};

inline constexpr const char* kConfigPath = "/etc/ringback/netbackd.toml";

// `origin` names the text in messages.
[[nodiscard]] Result<Config> parse_config(const std::string& text, const std::string& origin);
// An absent file at the default path is an empty one; at any other path it is an error.
[[nodiscard]] Result<Config> load_config(const std::string& path);

}  // namespace ringback::net
