// SPDX-License-Identifier: Apache-2.0
//
// See toolstack.h. Domains; disks are in toolstack_disk.cc.
#include "hypervisor/embedded/toolstack.h"

#include <cerrno>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <random>

namespace ringback::xen::embedded {
namespace {

using nlohmann::json;

std::string make_uuid() {
    std::random_device random;
    std::uint32_t w[4] = {random(), random(), random(), random()};
    w[1] = (w[1] & 0xffff0fff) | 0x4000;
    w[2] = (w[2] & 0x3fffffff) | 0x80000000;
    char text[37];
    std::snprintf(text, sizeof text, "%08x-%04x-%04x-%04x-%04x%08x", w[0], w[1] >> 16, w[1] & 0xffff,
                  w[2] >> 16, w[2] & 0xffff, w[3]);
    return text;
}

std::string domain_path(std::uint16_t domid) {
    return "/local/domain/" + std::to_string(domid);
}

}  // namespace

Result<Toolstack> Toolstack::connect() {
    Toolstack toolstack(TRY(StoreClient::open(std::uint16_t{0})));
    if (int error = toolstack.core_->open(std::uint16_t{0}); error != 0)
        return os_error(error, "connect to the core in " + CoreConnection::directory());
    return toolstack;
}

Result<std::string> Toolstack::ask(Op op, std::initializer_list<std::int64_t> args, const std::string& what,
                                   const std::string& payload) {
    CallResult result = core_->call(op, args, payload.data(), payload.size());
    if (result.error != 0) return os_error(result.error, what);
    return std::string(result.payload.begin(), result.payload.end());
}

Result<void> Toolstack::call(Op op, std::initializer_list<std::int64_t> args, const std::string& what,
                             const std::string& payload) {
    TRY(ask(op, args, what, payload));
    return {};
}

Result<std::uint16_t> Toolstack::create_domain(const DomainSpec& spec) {
    const std::string uuid = spec.uuid.empty() ? make_uuid() : spec.uuid;
    const std::uint64_t max_memory = spec.max_memory_mib == 0 ? spec.memory_mib : spec.max_memory_mib;
    const std::uint32_t max_vcpus = spec.max_vcpus == 0 ? spec.vcpus : spec.max_vcpus;
    json request = {{"name", spec.name},
                    {"uuid", uuid},
                    {"type", spec.type},
                    {"memory_mib", spec.memory_mib},
                    {"max_memory_mib", max_memory},
                    {"vcpus", spec.vcpus},
                    {"max_vcpus", max_vcpus},
                    {"domid", spec.domid}};
    const std::string text = request.dump();
    CallResult created = core_->call(Op::create_domain, {}, text.data(), text.size());
    if (created.error != 0) return os_error(created.error, "create domain " + spec.name);
    const auto domid = static_cast<std::uint16_t>(created.values[0]);
    const std::string id = std::to_string(domid);
    const std::string dom = domain_path(domid), vm = "/vm/" + uuid, libxl = "/libxl/" + id;
    // Owned by domain 0, to be read by the guest; and what the guest may write itself.
    const std::vector<std::string> ro{"n0", "r" + id}, rw{"n" + id}, none{"n0"};
    Result<void> written = store_.transact([&](std::uint32_t tx) -> Result<void> {
        (void)store_.remove(dom, tx);
        for (const auto& [path, perms] : {std::pair{dom, ro}, {vm, ro}, {libxl, none}}) {
            TRY(store_.mkdir(path, tx));
            TRY(store_.set_permissions(path, perms, tx));
        }
        TRY(store_.write(dom + "/vm", vm, tx));
        TRY(store_.write(dom + "/name", spec.name, tx));
        for (const char* dir : {"cpu", "memory", "device", "control"}) {
            TRY(store_.mkdir(dom + "/" + dir, tx));
            TRY(store_.set_permissions(dom + "/" + dir, ro, tx));
        }
        for (const char* dir : {"control/shutdown", "control/feature-poweroff", "control/feature-reboot",
                                "control/feature-suspend", "data", "drivers", "feature", "attr", "error"}) {
            TRY(store_.mkdir(dom + "/" + dir, tx));
            TRY(store_.set_permissions(dom + "/" + dir, rw, tx));
        }
        TRY(store_.write(dom + "/domid", id, tx));
        TRY(store_.write(dom + "/memory/static-max", std::to_string(max_memory * 1024), tx));
        TRY(store_.write(dom + "/memory/target", std::to_string(spec.memory_mib * 1024), tx));
        TRY(store_.write(dom + "/memory/videoram", "0", tx));
        for (std::uint32_t i = 0; i < max_vcpus; ++i)
            TRY(store_.write(dom + "/cpu/" + std::to_string(i) + "/availability",
                             i < spec.vcpus ? "online" : "offline", tx));
        TRY(store_.write(vm + "/uuid", uuid, tx));
        TRY(store_.write(vm + "/name", spec.name, tx));
        TRY(store_.write(libxl + "/type", spec.type, tx));
        return {};
    });
    if (written.ok()) written = store_.introduce(domid);
    if (written.ok()) return domid;
    (void)kill_domain(domid);
    return written.error();
}

Result<void> Toolstack::destroy_domain(std::uint16_t domid) {
    const std::string id = std::to_string(domid), dom = domain_path(domid);
    TRY(pause_domain(domid, true));
    std::vector<Device> all = devices(domid);
    for (const Device& device : all)
        TRY(begin_removal(device));
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeouts.device);
    for (const Device& device : all) {
        auto left =
            std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
        Result<void> closed = store_.wait_for(
            device.backend + "/state", [](const auto& state) { return !state || *state == "6"; },
            left > 0 ? static_cast<int>(left) : 0);
        // After the limit the nodes go anyway, and the script is not run.
        if (closed.ok()) (void)run_script(device, "remove");
        remove_nodes(device);
    }
    std::optional<std::string> vm = store_.get(dom + "/vm");
    if (vm) TRY(store_.remove(*vm));
    TRY(store_.remove(dom));
    TRY(store_.remove("/libxl/" + id));
    return kill_domain(domid);
}

Result<void> Toolstack::kill_domain(std::uint16_t domid) {
    return call(Op::destroy_domain, {domid}, "destroy domain " + std::to_string(domid));
}

Result<void> Toolstack::shutdown_domain(std::uint16_t domid, ShutdownReason reason) {
    return call(Op::shutdown, {domid, static_cast<std::int64_t>(reason)},
                "shut down domain " + std::to_string(domid));
}

Result<void> Toolstack::resume_domain(std::uint16_t domid) {
    return call(Op::resume, {domid}, "resume domain " + std::to_string(domid));
}

Result<void> Toolstack::pause_domain(std::uint16_t domid, bool paused) {
    return call(Op::pause, {domid, paused},
                (paused ? "pause domain " : "unpause domain ") + std::to_string(domid));
}

Result<void> Toolstack::rename_domain(std::uint16_t domid, const std::string& name) {
    TRY(call(Op::rename_domain, {domid}, "rename domain " + std::to_string(domid), name));
    std::string vm = TRY(store_.read(domain_path(domid) + "/vm"));
    return store_.transact([&](std::uint32_t tx) -> Result<void> {
        TRY(store_.write(domain_path(domid) + "/name", name, tx));
        return store_.write(vm + "/name", name, tx);
    });
}

Result<void> Toolstack::set_memory_target(std::uint16_t domid, std::uint64_t kib) {
    std::string max = TRY(store_.read(domain_path(domid) + "/memory/static-max"));
    if (kib > std::stoull(max))
        return os_error(EINVAL, "set memory of domain " + std::to_string(domid) + " above its maximum of " +
                                    max + " KiB");
    return store_.write(domain_path(domid) + "/memory/target", std::to_string(kib));
}

Result<void> Toolstack::set_max_memory(std::uint16_t domid, std::uint64_t kib) {
    TRY(call(Op::set_max_pages, {domid, static_cast<std::int64_t>(kib * 1024 / kPageSize)},
             "set maximum memory of domain " + std::to_string(domid)));
    return store_.write(domain_path(domid) + "/memory/static-max", std::to_string(kib));
}

Result<void> Toolstack::set_vcpus(std::uint16_t domid, std::uint32_t count) {
    const std::string cpu = domain_path(domid) + "/cpu";
    std::vector<std::string> all = TRY(store_.list(cpu));
    if (count == 0 || count > all.size())
        return os_error(EINVAL, "give domain " + std::to_string(domid) + " " + std::to_string(count) +
                                    " of " + std::to_string(all.size()) + " vCPUs");
    return store_.transact([&](std::uint32_t tx) -> Result<void> {
        for (std::uint32_t i = 0; i < all.size(); ++i)
            TRY(store_.write(cpu + "/" + std::to_string(i) + "/availability",
                             i < count ? "online" : "offline", tx));
        return {};
    });
}

Result<std::string> Toolstack::domain_info(std::uint16_t domid) {
    return ask(Op::domain_info, {domid}, "describe domain " + std::to_string(domid));
}

Result<std::string> Toolstack::list_domains() {
    return ask(Op::list_domains, {}, "list domains");
}

Result<std::string> Toolstack::counters() {
    return ask(Op::counters, {}, "read counters");
}

Result<std::string> Toolstack::inject(const std::string& text) {
    return ask(Op::inject, {}, "inject " + text, text);
}

}  // namespace ringback::xen::embedded
