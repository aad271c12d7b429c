// SPDX-License-Identifier: Apache-2.0
//
// What the control socket is asked for (docs/control-protocol.md).
#include <fmt/format.h>
#include <unistd.h>

#include <sstream>

#include "netback/supervisor.h"
#include "hypervisor/guest_status.h"

namespace ringback::net {

namespace {

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
            {"rate_waits", stats.rate_waits},
            {"rx_waited", stats.rx_waited},
            {"switch",
             {{"forwarded", stats.port.forwarded},
              {"flooded", stats.port.flooded},
              {"malformed", stats.port.malformed},
              {"spoofed", stats.port.spoofed},
              {"vlan_refused", stats.port.vlan_refused},
              {"policed", stats.port.policed},
              {"storm", stats.port.storm},
              {"nowhere", stats.port.nowhere},
              {"unlearned", stats.port.unlearned}}}};
}

}  // namespace

void Supervisor::command(const ControlRequest& request, Responder respond) {
    if (request.command == "status") return status(request, std::move(respond));
    if (request.command == "switch-table") return switch_table(request, std::move(respond));
    if (request.command == "doctor-info") return doctor_info(std::move(respond));
    respond(control_error(fmt::format("unknown command \"{}\"", request.command)));
}

nlohmann::json Supervisor::describe(const Device& device) const {
    const View& view = device.last_view();
    const std::string directory = xen::backend_directory(around_.own_domid, device.id());
    const auto node = [&](const char* key) { return store_.read(directory + "/" + key).value_or(""); };
    nlohmann::json vif = {{"device", device.id().text()},
                          {"mode", device.way() != nullptr ? device.way()->mode() : ""},
                          {"interface", device.way() != nullptr ? device.way()->interface() : ""},
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
        vif["link"] = device.way()->state().up != 0;
    }
    if (!device.error().empty()) vif["error"] = device.error();
    if (pool_) {
        if (auto finding = pool_->describe(device.id()); !finding.is_null()) vif["mac_pool"] = std::move(finding);
    }
    return vif;
}

void Supervisor::status(const ControlRequest& request, Responder respond) {
    const auto status = xen::GuestStatus::start(loop_, store_, "vifs", request, std::move(respond));
    if (!status) return;
    status->answer()["worker_pid"] = worker_.pid();
    for (const auto& [id, device] : devices_) {
        if (!status->wants(id.domid)) continue;
        const size_t vif = status->add(id.domid, describe(*device));
        if (device->ring() != RingPhase::connected) continue;
        status->expect();
        device->ask_stats([status, domid = id.domid, vif](const Answer& answer) {
            status->got(domid, vif, answer.error == 0 ? counters(answer.stats) : nlohmann::json());
        });
    }
    status->finish();
}

void Supervisor::doctor_info(Responder respond) {
    nlohmann::json troubled = nlohmann::json::array();
    for (const auto& [id, device] : devices_) {
        if (!device->error().empty()) troubled.push_back({{"device", id.text()}, {"error", device->error()}});
    }
    nlohmann::json switches = nlohmann::json::array();
    std::istringstream names(config_.switch_names);
    for (std::string name; names >> name;) switches.push_back(name);
    respond({{"ok", true},
             {"switches", switches},
             {"daemon_version", RINGBACK_VERSION},
             {"pid", ::getpid()},
             {"worker_start", to_string(config_.worker_start)},
             {"devices", devices_.size()},
             {"troubled", troubled}});
}

}  // namespace ringback::net
