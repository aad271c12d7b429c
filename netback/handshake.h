// SPDX-License-Identifier: Apache-2.0
//
// The handshake: what the supervisor does next for one vif, as a pure function of what can be seen now.
//
// Not a set of handlers for events, because events are merged, doubled and overtaken (a restarted daemon has seen none of
// them): every change only makes the vif be looked at again, and the same view always gives the same answer. One action at
// a time; its own effects lead to the next look. docs/netback.md has the walks.
//
// Rules (xen/io/xenbus.h, io/netif.h, and what libxl and the frontends do):
//   - A vif never lingers in Initialising and never shows Initialised: Windows's frontend waits at a raised interrupt
//     level, for as long as it takes, on both. So InitWait is written as soon as the port is there or is known not to come, and
//     then, too: the hotplug script fails, and that is what tells the user.
//   - libxl waits for InitWait, then runs the script. InitWait stays until the script has written
//     hotplug-status=connected, though the frontend is Connected (not Initialised: that is blkif's way) by then.
//   - A frontend is answered at each of its steps, whatever state we are in, and no step is skipped: the Windows close
//     walk and a kexec'ed kernel wait for each one. One that starts anew without having closed is walked through
//     Closing and Closed.
//   - Closed and online: no rings, but the port stays, as it is in a bridge and the frontend may come back.
//   - online=0 with Closing is the toolstack taking the vif away: the port goes too. A frontend that is up gets a bounded
//     time.
//   - Whose address another vif of the switch still has (which is being detached, or was migrated on this host) is connected when
//     that one has gone. The frontend sees InitWait meanwhile.
//   - A worker that died is replaced and served the same rings again, with both sides Connected throughout.
//   - Our own directory is the toolstack's to delete.
#pragma once

#include <cstdint>

#include "hypervisor/backend.h"
#include "hypervisor/xenbus.h"

namespace ringback::net {

enum class PortPhase : uint8_t { none, opening, open, closing, failed };
using xen::RingPhase;

struct View {
    xen::XenbusState backend = xen::XenbusState::unknown;
    xen::XenbusState frontend = xen::XenbusState::unknown;  // unknown too when the directory is gone
    bool present = true;         // our directory exists
    bool online = true;
    bool script_done = false;    // hotplug-status=connected
    bool close_overdue = false;  // Closing for longer than a frontend is given
    bool broken = false;         // the frontend or the worker made this connection unusable
    bool announced = false;      // Connected was written after the rings were connected
    bool address_taken = false;  // on the switch, by a vif that may be about to go: to be asked again later
    PortPhase port = PortPhase::none;
    RingPhase ring = RingPhase::none;
};

enum class Action : uint8_t {
    none,
    open_port,
    remove_port,
    publish_init_wait,
    connect,
    publish_connected,
    disconnect,
    publish_closing,
    publish_closed,
    forget,
};

[[nodiscard]] Action next_action(const View& view);
[[nodiscard]] const char* to_string(Action action);
[[nodiscard]] const char* to_string(PortPhase phase);

}  // namespace ringback::net
