// SPDX-License-Identifier: Apache-2.0
//
// A vif as a port of the built-in switch, as the toolstack's nodes and netbackd's settings say it: which vif is one, and with
// what rules.
//
// Its hotplug script is vif-ringback (`script=vif-ringback` in xl's vif line); then `bridge` names a switch of netbackd.toml,
// with VLANs in the form of vif-openvswitch. All other vifs are TAPs.
#pragma once

#include <string>

#include "netback/config.h"
#include "netback/worker_protocol.h"
#include "runtime/result.h"

namespace ringback::net {

// The nodes of a vif that matter here.
struct NicNodes {
    std::string script;
    std::string bridge;
    std::string mac;
    std::string ip;
};

[[nodiscard]] bool wants_switch(const NicNodes& nodes);
// An error says what is wrong with which setting of the NIC.
[[nodiscard]] Result<SwitchPort> make_switch_port(const NicNodes& nodes, const Config& config);

}  // namespace ringback::net
