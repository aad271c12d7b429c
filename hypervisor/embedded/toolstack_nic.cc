// SPDX-License-Identifier: Apache-2.0
//
// See toolstack.h. NICs: what libxl writes and waits for (Xen 4.17: libxl_nic.c, libxl_device.c). Removal is that of every
// device.
#include <cerrno>

#include "hypervisor/embedded/toolstack.h"

namespace ringback::xen::embedded {

Result<void> Toolstack::write_nic_nodes(std::uint16_t domid, const NicSpec& spec) {
    using Nodes = std::vector<std::pair<std::string, std::string>>;
    const std::string id = std::to_string(domid), handle = std::to_string(spec.handle);
    const std::string be_id = std::to_string(spec.backend_domid);
    const std::string front = "/local/domain/" + id + "/device/vif/" + handle;
    const std::string back = "/local/domain/" + be_id + "/backend/vif/" + id + "/" + handle;
    const std::string copy = "/libxl/" + id + "/device/vif/" + handle;

    Nodes backend = {{"frontend", front}, {"frontend-id", id}, {"online", "1"}, {"state", "1"}, {"script", spec.script}};
    if (!spec.vifname.empty()) backend.emplace_back("vifname", spec.vifname);
    if (!spec.rate.empty()) backend.emplace_back("rate", spec.rate);
    if (!spec.ip.empty()) backend.emplace_back("ip", spec.ip);
    if (!spec.mtu.empty()) backend.emplace_back("mtu", spec.mtu);
    backend.insert(backend.end(), {{"mac", spec.mac},
                                   {"bridge", spec.bridge},
                                   {"handle", handle},
                                   {"type", "vif"},
                                   {"hotplug-status", ""}});
    const Nodes frontend = {{"backend", back},     {"backend-id", be_id}, {"state", "1"},
                            {"handle", handle},    {"mac", spec.mac},     {"trusted", "1"}};

    return store_.transact([&](std::uint32_t tx) -> Result<void> {
        if (store_.get(copy, tx)) return os_error(EEXIST, "attach NIC " + handle + " to domain " + id);
        (void)store_.remove(front, tx);
        TRY(store_.mkdir(front, tx));
        TRY(store_.set_permissions(front, {"n" + id, "r" + be_id}, tx));
        for (const auto& [key, value] : frontend) TRY(store_.write(front + "/" + key, value, tx));
        (void)store_.remove(back, tx);
        TRY(store_.mkdir(back, tx));
        TRY(store_.set_permissions(back, {"n" + be_id, "r" + id}, tx));
        for (const auto& [key, value] : backend) TRY(store_.write(back + "/" + key, value, tx));
        TRY(store_.write(copy + "/frontend", front, tx));
        TRY(store_.write(copy + "/backend", back, tx));
        for (const auto& [key, value] : backend) TRY(store_.write(copy + "/" + key, value, tx));
        return {};
    });
}

Result<void> Toolstack::attach_nic(std::uint16_t domid, const NicSpec& spec) {
    TRY(write_nic_nodes(domid, spec));
    DiskSpec kind;
    kind.kind = "vif";
    kind.backend_domid = spec.backend_domid;
    Result<void> done = wait_backend_ready(domid, spec.handle, kind);
    if (done.ok()) {
        const std::string back = "/local/domain/" + std::to_string(spec.backend_domid) + "/backend/vif/" +
                                 std::to_string(domid) + "/" + std::to_string(spec.handle);
        // libxl runs what the node names by now; what a backend puts there is for a vif that must not go on.
        const std::string script = store_.get(back + "/script").value_or("");
        if (script == spec.script) {
            done = store_.write(back + "/hotplug-status", "connected");  // what the stock script leaves behind
        } else {
            done = Error{EIO, "hotplug script " + script + " online failed: " +
                                  store_.get(back + "/hotplug-error").value_or("no message left")};
        }
    }
    if (!done.ok()) (void)detach_disk(domid, spec.handle, true);
    return done;
}

}  // namespace ringback::xen::embedded
