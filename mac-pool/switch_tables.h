// SPDX-License-Identifier: Apache-2.0
//
// SwitchTables: the addresses that this host's switches have learned: Linux bridges, Open vSwitch and netbackd's own.
//
// A Linux bridge's table is a file of the kernel's (brforward: fixed records, the kernel's own ABI), so that
// neither a netlink dump nor the text of the `bridge` command has to be taken apart. Open vSwitch is asked on
// the socket that ovs-appctl uses, in the same JSON-RPC, and not through that command: an answer can then be
// waited for with a limit, and there is no program to find. netbackd is asked on its control socket.
//
// Sources: linux/if_bridge.h (struct __fdb_entry); Open vSwitch, ovs-appctl(8) and lib/unixctl.c; docs/control-protocol.md.
#pragma once

#include <string>

#include "mac-pool/sightings.h"

namespace ringback::mac {

// `directory` is /sys/class/net. Without what is local to a bridge: its ports' own addresses.
[[nodiscard]] Sightings see_bridges(const std::string& directory);
// `directory` is /run/openvswitch. None there, none seen.
[[nodiscard]] Sightings see_open_vswitch(const std::string& directory);
// `socket` is /run/ringback/netbackd.sock. netbackd does not run, or has no switch: none seen. What is known of a port from
// its configuration is in use, too.
[[nodiscard]] Sightings see_netbackd(const std::string& socket);

}  // namespace ringback::mac
