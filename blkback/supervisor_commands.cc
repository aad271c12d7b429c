// SPDX-License-Identifier: Apache-2.0
//
// What the control socket is asked for (docs/control-protocol.md).
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "blkback/supervisor.h"
#include "hypervisor/guest_status.h"

namespace ringback::blk {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kWaitReady{30000};  // libxl gives a hotplug script 40 s
constexpr uint64_t kMaxDiskBytes = uint64_t{1} << 62;

nlohmann::json counters(const Stats& stats) {
    return {{"reads", stats.reads},
            {"writes", stats.writes},
            {"flushes", stats.flushes},
            {"discards", stats.discards},
            {"read_bytes", stats.read_bytes},
            {"write_bytes", stats.write_bytes},
            {"discard_bytes", stats.discard_bytes},
            {"errors", stats.errors},
            {"bad_requests", stats.bad_requests},
            {"notifies_sent", stats.notifies_sent},
            {"events_taken", stats.events_taken},
            {"grant_copy_calls", stats.grant_copy_calls},
            {"grant_copy_segments", stats.grant_copy_segments},
            {"persistent_grants", stats.persistent_grants},
            {"persistent_maps", stats.persistent_maps},
            {"persistent_unmaps", stats.persistent_unmaps},
            {"reactor_enters", stats.reactor_enters},
            {"reactor_sleeps", stats.reactor_sleeps},
            {"poll_hits", stats.poll_hits},
            {"poll_misses", stats.poll_misses},
            {"in_flight", stats.in_flight},
            {"recoveries", stats.recoveries},
            {"replayed", stats.replayed},
            {"throttled_ms", stats.throttled_ns / 1'000'000},
            {"sync_failed", stats.sync_failed != 0}};
}

}  // namespace

void Supervisor::command(const ControlRequest& request, Responder respond) {
    if (request.command == "wait-ready") return wait_ready(request, std::move(respond));
    if (request.command == "status") return status(request, std::move(respond));
    if (request.command == "resize") return resize(request, std::move(respond));
    if (request.command == "throttle") return throttler_.command(request, respond);
    if (request.command == "replace-worker") return replace_worker(request, std::move(respond));
    if (request.command == "doctor-info") return doctor_info(std::move(respond));
    respond(control_error(fmt::format("unknown command \"{}\"", request.command)));
}

void Supervisor::wait_ready(const ControlRequest& request, Responder respond) {
    const auto device = request.text("device");
    if (!device) return respond(control_error(device.error().message));
    // As hotplug scripts have it in XENBUS_PATH: backend/vbd/3/51712.
    std::string_view text = device.value() ? std::string_view(*device.value()) : std::string_view();
    if (text.starts_with("backend/")) text.remove_prefix(8);
    const auto id = xen::DeviceId::parse(text);
    if (!id) return respond(control_error("\"device\" must be of the form backend/vbd/DOMID/DEVID"));
    if (!watch_.covers(id->kind) || !store_.exists(xen::backend_directory(around_.own_domid, *id))) {
        return respond(control_error(fmt::format("blkbackd serves no device {}", id->text())));
    }
    watch_.mark(*id);
    waiters_.push_back({*id, std::move(respond), {}});
    const auto waiter = std::prev(waiters_.end());
    waiter->deadline = loop_.after(kWaitReady, [this, waiter] {
        waiter->respond(control_error(fmt::format("{} could not be opened within {} s", waiter->id.text(),
                                                  std::chrono::duration_cast<std::chrono::seconds>(kWaitReady).count())));
        waiters_.erase(waiter);
    });
}

nlohmann::json Supervisor::describe(const Device& device) const {
    const View& view = device.last_view();
    nlohmann::json disk = {{"device", device.id().text()},
                           {"vdev", device.vdev()},
                           {"target", device.target()},
                           {"backend_state", xen::to_string(view.backend)},
                           {"frontend_state", xen::to_string(view.frontend)},
                           {"image", to_string(device.image())},
                           {"ring", to_string(device.ring())},
                           {"writable", device.writable()}};
    if (device.image() == ImagePhase::open) {
        disk["bytes"] = device.geometry().bytes;
        disk["physical_block"] = device.geometry().physical_block;
        disk["discard"] = device.geometry().discard != 0;
        disk["direct"] = device.direct();
        if (!device.direct()) disk["why_buffered"] = device.why_buffered();
    }
    if (device.ring() == RingPhase::connected) {
        disk["queues"] = device.queues();
        disk["persistent_grants"] = device.persistent();
    }
    if (nlohmann::json throttle = throttler_.describe(device.id()); !throttle.is_null()) disk["throttle"] = std::move(throttle);
    disk["recoveries"] = device.recoveries();
    if (device.recoveries() > 0) disk["last_pause_ms"] = device.last_pause().count();
    if (device.recovering()) disk["recovering"] = true;
    if (!device.error().empty()) disk["error"] = device.error();
    return disk;
}

void Supervisor::status(const ControlRequest& request, Responder respond) {
    const auto status = xen::GuestStatus::start(loop_, store_, "disks", request, std::move(respond));
    if (!status) return;
    for (const auto& [id, device] : devices_) {
        if (!status->wants(id.domid)) continue;
        status->guest(id.domid)["worker_pid"] = workers_.pid(id.domid);
        const size_t disk = status->add(id.domid, describe(*device));
        if (device->image() != ImagePhase::open || !workers_.connected(id.domid)) continue;
        status->expect();
        device->ask_stats([status, domid = id.domid, disk](const Answer& answer) {
            status->got(domid, disk, answer.error == 0 ? counters(answer.stats) : nlohmann::json());
        });
    }
    status->finish();
}

void Supervisor::resize(const ControlRequest& request, Responder respond) {
    const auto guest = request.text("guest");
    const auto disk = request.text("disk");
    const auto bytes = request.number("bytes", kMaxDiskBytes);
    if (!guest) return respond(control_error(guest.error().message));
    if (!disk) return respond(control_error(disk.error().message));
    if (!bytes) return respond(control_error(bytes.error().message));
    if (!guest.value() || !disk.value()) return respond(control_error("resize needs \"guest\" and \"disk\""));
    const auto domid = xen::find_guest(store_, *guest.value());
    if (!domid) return respond(control_error(domid.error().message));
    const auto devid = xen::parse_number(*disk.value(), 0, UINT32_MAX);
    const auto found = std::find_if(devices_.begin(), devices_.end(), [&](const auto& entry) {
        if (entry.first.domid != domid.value()) return false;
        return entry.second->vdev() == *disk.value() || (devid && entry.first.devid == *devid);
    });
    if (found == devices_.end()) {
        return respond(control_error(fmt::format("guest \"{}\" (domain {}) has no disk \"{}\" here", *guest.value(),
                                                 domid.value(), *disk.value())));
    }
    found->second->resize(bytes.value().value_or(0), [respond = std::move(respond)](Result<uint64_t> size) {
        if (!size) return respond(control_error(size.error().message));
        respond({{"ok", true}, {"bytes", size.value()}});
    });
}

void Supervisor::doctor_info(Responder respond) {
    nlohmann::json troubled = nlohmann::json::array();
    for (const auto& [id, device] : devices_) {
        if (!device->error().empty()) troubled.push_back({{"device", id.text()}, {"error", device->error()}});
    }
    respond({{"ok", true},
             {"daemon_version", RINGBACK_VERSION},
             {"interface", interface()},
             {"pid", ::getpid()},
             {"roots", config_.roots},
             {"worker_start", to_string(config_.worker_start)},
             {"devices", devices_.size()},
             {"troubled", troubled}});
}

}  // namespace ringback::blk
