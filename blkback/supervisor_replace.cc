// SPDX-License-Identifier: Apache-2.0
//
// A worker is replaced while it serves, because there is a newer program (upgrade.h). It is ended as any death would end it, and
// its successor takes over from its journal (docs/recovery.md): one way, which is tried all the time.
#include <fmt/format.h>

#include <algorithm>

#include "blkback/supervisor.h"
#include "hypervisor/guest_status.h"

namespace ringback::blk {

namespace {

constexpr std::chrono::seconds kReplacePatience{45};  // within a control connection's life

bool settled(const Device& device) {
    const bool image = device.image() != ImagePhase::opening && device.image() != ImagePhase::closing;
    const bool ring = device.ring() == RingPhase::none || device.ring() == RingPhase::connected;
    return image && ring && !device.recovering();
}

}  // namespace

std::string Supervisor::interface() { return fmt::format("protocol {} journal {}", kProtocolVersion, kJournalVersion); }

void Supervisor::replace_worker(const ControlRequest& request, Responder respond) {
    const auto guest = request.text("guest");
    const auto theirs = request.text("interface");
    if (!guest) return respond(control_error(guest.error().message));
    if (!theirs) return respond(control_error(theirs.error().message));
    if (!guest.value() || !theirs.value()) return respond(control_error("replace-worker needs \"guest\" and \"interface\""));
    const auto domid = xen::find_guest(store_, *guest.value());
    if (!domid) return respond(control_error(domid.error().message));
    if (*theirs.value() != interface()) {
        return respond(control_error(fmt::format("the new worker has \"{}\", this blkbackd \"{}\": it cannot take over",
                                                 *theirs.value(), interface())));
    }
    if (!workers_.connected(domid.value())) return respond(control_error("the guest has no worker"));
    for (const auto& [id, device] : devices_) {
        if (id.domid == domid.value() && !settled(*device)) {
            return respond(control_error(fmt::format("{} is opening, closing or being taken over: try again", id.text())));
        }
    }
    replacements_.push_back({domid.value(), workers_.pid(domid.value()), std::move(respond), {}});
    const auto replacement = std::prev(replacements_.end());
    replacement->deadline = loop_.after(kReplacePatience, [this, replacement] {
        replacement->respond(control_error("the new worker has not taken over in time; it is still being tried"));
        replacements_.erase(replacement);
    });
    workers_.replace(domid.value());
}

void Supervisor::answer_replacements() {
    for (auto next = replacements_.begin(); next != replacements_.end();) {
        const auto replacement = next++;
        nlohmann::json disks = nlohmann::json::array();
        bool waiting = !workers_.connected(replacement->domid) || workers_.pid(replacement->domid) == replacement->former;
        std::string failure;
        for (const auto& [id, device] : devices_) {
            if (id.domid != replacement->domid) continue;
            waiting = waiting || !settled(*device);
            if (device->image() == ImagePhase::failed) failure = device->error();
            disks.push_back({{"device", id.text()}, {"pause_ms", device->last_pause().count()}});
        }
        if (disks.empty()) failure = "the guest is gone";
        if (waiting && failure.empty()) continue;
        loop_.cancel(replacement->deadline);
        if (failure.empty()) {
            replacement->respond({{"ok", true}, {"worker_pid", workers_.pid(replacement->domid)}, {"disks", disks}});
        } else {
            replacement->respond(control_error(failure));
        }
        replacements_.erase(replacement);
    }
}

}  // namespace ringback::blk
