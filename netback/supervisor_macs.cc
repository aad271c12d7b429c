// SPDX-License-Identifier: Apache-2.0
//
// Who a vif is on its network: no address twice, and the one that the MAC pool holds.
//
// Everything is read from nodes that only the toolstack writes. A vif counts as active from the moment that it has a port
// or that its script has run, until the toolstack takes it away: a guest that closes its end for a while keeps its address.
#include "hypervisor/guest.h"
#include "netback/supervisor.h"

namespace ringback::net {

std::optional<mac::ActiveVif> Supervisor::identity(const xen::DeviceId& id) const {
    const std::string directory = xen::backend_directory(around_.own_domid, id);
    const auto address = mac::parse_unicast(store_.read(directory + "/mac").value_or(""));
    if (!address) return std::nullopt;
    mac::ActiveVif vif;
    vif.network = store_.read(directory + "/bridge").value_or("");
    vif.mac = address.value();
    vif.guest = {xen::guest_name(store_, id.domid), xen::guest_uuid(store_, id.domid)};
    vif.domid = id.domid;
    vif.devid = id.devid;
    return vif;
}

std::optional<std::string> Supervisor::mac_refusal(const xen::DeviceId& id) const {
    const auto wanted = identity(id);
    if (!wanted) return std::nullopt;
    std::vector<mac::ActiveVif> active;
    for (const auto& [other, device] : devices_) {
        if (other == id) continue;
        // First what tells nearly all of them apart: there may be hundreds.
        const std::string directory = xen::backend_directory(around_.own_domid, other);
        const auto address = mac::parse_unicast(store_.read(directory + "/mac").value_or(""));
        if (!address || address.value() != wanted->mac) continue;
        const bool on = device->port() == PortPhase::open ||
                        store_.read(directory + "/hotplug-status").value_or("") == "connected";
        // Read now, as what is taken away may not have been looked at yet.
        if (!on || store_.read(directory + "/online").value_or("0") == "0") continue;
        if (auto vif = identity(other)) active.push_back(std::move(*vif));
    }
    return mac::refusal(active, *wanted);
}

void Supervisor::ask_pool(const Device& device) {
    if (!pool_ || device.port() != PortPhase::open || pool_->knows(device.id())) return;
    if (const auto vif = identity(device.id())) pool_->ask(device.id(), *vif);
}

}  // namespace ringback::net
