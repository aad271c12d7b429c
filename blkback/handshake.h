// SPDX-License-Identifier: Apache-2.0
//
// The handshake: what the supervisor does next for one device, as a pure function of what can be seen now.
//
// Not a set of handlers for events, because events are merged, doubled and overtaken (a restarted daemon has seen
// none of them): every change only makes the device be looked at again, and the same view always gives the same answer.
// One action at a time; its own effects lead to the next look. docs/state-machine.md has the walks.
//
// Rules (xen/io/xenbus.h, io/blkif.h, and what libxl and the frontends do):
//   - libxl waits for the backend to read InitWait, then runs the hotplug script. InitWait therefore stays until the
//     script has written hotplug-status=connected; the frontend may be as far as Initialised by then.
//   - A frontend is answered at each of its steps, whatever state we are in, and no step is skipped: the Windows
//     close walk and a kexec'ed kernel wait for each one.
//   - A frontend that is Initialised again while we are Connected has new rings (resume): reconnect, stay Connected. Finding
//     us Connected, it may be Connected again itself before we look; then other rings than ours tell.
//   - Closed means that nothing is held: rings unmapped, image closed, locks dropped. So does a vanished directory.
//   - online=0 with Closing is the toolstack taking the device away. A frontend that is up gets a bounded time.
//   - A worker's death changes no state: its rings are taken over as soon as the image is open again.
//   - Our own directory is the toolstack's to delete.
#pragma once

#include <cstdint>

#include "hypervisor/backend.h"
#include "hypervisor/xenbus.h"

namespace ringback::blk {

enum class ImagePhase : uint8_t { closed, opening, open, failed, closing };
using xen::RingPhase;

struct View {
    xen::XenbusState backend = xen::XenbusState::unknown;
    xen::XenbusState frontend = xen::XenbusState::unknown;  // unknown too when the directory is gone
    bool present = true;             // our directory exists
    bool online = true;
    bool script_opens = true;        // our own script: opened at once; a stock one: opened when the script is through
    bool script_done = false;        // hotplug-status=connected
    bool open_overdue = false;       // opening takes longer than libxl should be kept waiting
    bool close_overdue = false;      // Closing for longer than a frontend is given
    bool renewed = false;            // the frontend offers other rings than the connected ones
    bool broken = false;             // the frontend or the worker made this connection unusable
    bool announced = false;          // Connected was written after the rings were last connected
    bool owed = false;               // a dead worker's rings are to be taken over
    ImagePhase image = ImagePhase::closed;
    RingPhase ring = RingPhase::none;
};

enum class Action : uint8_t {
    none,
    open_image,
    close_image,
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
[[nodiscard]] const char* to_string(ImagePhase phase);

}  // namespace ringback::blk
