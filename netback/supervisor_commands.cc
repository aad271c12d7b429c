// SPDX-License-Identifier: Apache-2.0
//
// What the control socket is asked for (docs/control-protocol.md).
#include <fmt/format.h>
#include <unistd.h>

#include "netback/supervisor.h"

namespace ringback::net {

namespace {

constexpr std::chrono::milliseconds kStatsPatience{2000};

nlohmann::json counters(const Stats& stats) {
    return {{"tx_packets", stats.tx_packets},
            {"tx_bytes", stats.tx_bytes},
            {"tx_dropped", stats.tx_dropped},
            {"tx_errors", stats.tx_errors},
            {"tx_gso", stats.tx_gso},
            {"rx_packets", stats.rx_packets},
            {"rx_bytes", stats.rx_bytes},
            {"rx_dropped", stats.rx_dropped},
            {"rx_filtered", stats.rx_filtered},
            {"rx_errors", stats.rx_errors},
            {"rx_gso", stats.rx_gso},
            {"notifies_sent", stats.notifies_sent},
            {"events_taken", stats.events_taken},
            {"grant_copy_calls", stats.grant_copy_calls},
            {"grant_copy_segments", stats.grant_copy_segments},
            {"rate_waits", stats.rate_waits}};
}

// A status answer that waits for the worker's counters.
struct StatusJob {
    Responder respond;
    nlohmann::json answer;
    size_t open = 1;  // the caller's own, until every question is asked
    bool done = false;

    void finish() {
        if (done) return;
        done = true;
        respond(std::move(answer));
    }
    void one_less() {
        if (--open == 0) finish();
    }
};

}  // namespace

void Supervisor::command(const ControlRequest& request, Responder respond) {
    if (request.command == "status") return status(request, std::move(respond));
    if (request.command == "doctor-info") return doctor_info(std::move(respond));
    respond(control_error(fmt::format("unknown command \"{}\"", request.command)));
}

std::string Supervisor::guest_name(xen::Domid domid) const {
    return store_.read(fmt::format("/local/domain/{}/name", domid)).value_or("");
}

std::string Supervisor::guest_uuid(xen::Domid domid) const {
    const std::string vm = store_.read(fmt::format("/local/domain/{}/vm", domid)).value_or("");
    return vm.starts_with("/vm/") ? vm.substr(4) : "";
}

// A domid, a name or a UUID. A name made of digits only is taken for a domid, as xl does.
Result<xen::Domid> Supervisor::find_guest(const std::string& guest) const {
    if (const auto domid = xen::parse_number(guest, 0, 0x7fef)) return static_cast<xen::Domid>(*domid);
    for (const std::string& entry : store_.list("/local/domain")) {
        const auto domid = xen::parse_number(entry, 0, 0x7fef);
        if (!domid) continue;
        const auto candidate = static_cast<xen::Domid>(*domid);
        if (guest_name(candidate) == guest || guest_uuid(candidate) == guest) return candidate;
    }
    return Error{ENOENT, fmt::format("there is no guest \"{}\" (a name, a domid or a UUID)", guest)};
}

nlohmann::json Supervisor::describe(const Device& device) const {
    const View& view = device.last_view();
    const std::string directory = xen::backend_directory(around_.own_domid, device.id());
    const auto node = [&](const char* key) { return store_.read(directory + "/" + key).value_or(""); };
    nlohmann::json vif = {{"device", device.id().text()},
                          {"mode", "tap"},
                          {"interface", device.interface()},
                          {"mac", node("mac")},
                          {"bridge", node("bridge")},
                          {"backend_state", xen::to_string(view.backend)},
                          {"frontend_state", xen::to_string(view.frontend)},
                          {"port", to_string(device.port())},
                          {"ring", to_string(device.ring())}};
    if (device.ring() == RingPhase::connected) {
        const Connect& connected = device.connected();
        vif["queues"] = connected.queue_count;
        vif["scatter_gather"] = connected.scatter_gather != 0;
        vif["gso_tcp4"] = connected.gso_tcp4 != 0;
        vif["gso_tcp6"] = connected.gso_tcp6 != 0;
    }
    if (!device.error().empty()) vif["error"] = device.error();
    return vif;
}

void Supervisor::status(const ControlRequest& request, Responder respond) {
    const auto guest = request.text("guest");
    if (!guest) return respond(control_error(guest.error().message));
    std::optional<xen::Domid> only;
    if (guest.value()) {
        const auto found = find_guest(*guest.value());
        if (!found) return respond(control_error(found.error().message));
        only = found.value();
    }
    const auto job = std::make_shared<StatusJob>();
    job->respond = std::move(respond);
    job->answer = {{"ok", true}, {"worker_pid", worker_.pid()}, {"guests", nlohmann::json::array()}};
    nlohmann::json& guests = job->answer["guests"];
    std::map<xen::Domid, size_t> index;
    for (const auto& [id, device] : devices_) {
        if (only && id.domid != *only) continue;
        const auto [entry, fresh] = index.try_emplace(id.domid, guests.size());
        if (fresh) {
            guests.push_back({{"domid", id.domid},
                              {"name", guest_name(id.domid)},
                              {"uuid", guest_uuid(id.domid)},
                              {"vifs", nlohmann::json::array()}});
        }
        nlohmann::json& vifs = guests[entry->second]["vifs"];
        vifs.push_back(describe(*device));
        if (device->ring() != RingPhase::connected) continue;
        ++job->open;
        device->ask_stats([job, where = entry->second, vif = vifs.size() - 1](const Answer& answer) {
            if (!job->done && answer.error == 0) {
                job->answer["guests"][where]["vifs"][vif]["counters"] = counters(answer.stats);
            }
            job->one_less();
        });
    }
    // A worker that does not answer in time: then without its counters.
    loop_.after(kStatsPatience, [job] { job->finish(); });
    job->one_less();
}

void Supervisor::doctor_info(Responder respond) {
    nlohmann::json troubled = nlohmann::json::array();
    for (const auto& [id, device] : devices_) {
        if (!device->error().empty()) troubled.push_back({{"device", id.text()}, {"error", device->error()}});
    }
    respond({{"ok", true},
             {"daemon_version", RINGBACK_VERSION},
             {"pid", ::getpid()},
             {"worker_start", to_string(config_.worker_start)},
             {"devices", devices_.size()},
             {"troubled", troubled}});
}

}  // namespace ringback::net
