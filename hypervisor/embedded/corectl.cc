// SPDX-License-Identifier: Apache-2.0
//
// corectl: the embedded core's toolstack and fault injection on a command line, for scripts and for a person who wants
// to look. What it does is toolstack.h; it adds only words.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "hypervisor/embedded/toolstack.h"

namespace ringback::xen::embedded {
namespace {

int report(const Result<void>& result) {
    if (result.ok()) return 0;
    std::fprintf(stderr, "corectl: %s\n", result.error().message.c_str());
    return 1;
}

int print_json(const Result<std::string>& result) {
    if (!result.ok()) return report(result.error());
    std::printf("%s\n", nlohmann::json::parse(result.value()).dump(2).c_str());
    return 0;
}

// A domain by number, name or UUID.
Result<std::uint16_t> find_domain(Toolstack& toolstack, const std::string& who) {
    const std::string text = TRY(toolstack.list_domains());
    for (const auto& domain : nlohmann::json::parse(text))
        if (who == std::to_string(domain["domid"].get<int>()) || who == domain["name"].get<std::string>() ||
            who == domain["uuid"].get<std::string>())
            return domain["domid"].get<std::uint16_t>();
    return os_error(ESRCH, "find domain " + who);
}

Result<void> disk_attach(Toolstack& toolstack, std::uint16_t domid, const DiskSpec& spec) {
    std::printf("%u\n", TRY(toolstack.attach_disk(domid, spec)));
    return {};
}

int run(int argc, char** argv) {
    CLI::App app("Domains, disks, NICs and faults of the embedded hypervisor core", "corectl");
    app.require_subcommand(1);
    std::string who, word;
    std::uint64_t number = 0;
    bool force = false;
    DomainSpec domain;
    DiskSpec disk;
    const auto command = [&](const char* name, const char* help, bool takes_domain) {
        CLI::App* sub = app.add_subcommand(name, help);
        if (takes_domain) sub->add_option("domain", who, "Number, name or UUID")->required();
        return sub;
    };
    CLI::App* create = command("create", "Create a domain; prints its number", false);
    create->add_option("name", domain.name)->required();
    create->add_option("--uuid", domain.uuid);
    create->add_option("--type", domain.type)->check(CLI::IsMember({"pv", "pvh", "hvm"}));
    create->add_option("--memory", domain.memory_mib, "MiB at the start");
    create->add_option("--maxmem", domain.max_memory_mib, "MiB at most");
    create->add_option("--vcpus", domain.vcpus, "Online at the start");
    create->add_option("--maxvcpus", domain.max_vcpus);
    create->add_option("--domid", domain.domid);
    CLI::App* destroy = command("destroy", "Destroy a domain as xl does, disks first", true);
    CLI::App* kill = command("kill", "End a domain at this moment, with nothing closed", true);
    CLI::App* shutdown = command("shutdown", "Let a domain shut down", true);
    const std::map<std::string, ShutdownReason> reasons = {{"poweroff", ShutdownReason::poweroff},
                                                           {"reboot", ShutdownReason::reboot},
                                                           {"suspend", ShutdownReason::suspend},
                                                           {"crash", ShutdownReason::crash}};
    shutdown->add_option("reason", word)->required()->check(CLI::IsMember(reasons));
    CLI::App* resume = command("resume", "Take a shutdown back, as after a failed migration", true);
    CLI::App* pause = command("pause", "Pause a domain", true);
    CLI::App* unpause = command("unpause", "Unpause a domain", true);
    CLI::App* rename = command("rename", "Give a domain a name", true);
    rename->add_option("name", word)->required();
    CLI::App* mem_set = command("mem-set", "Set a domain's balloon target", true);
    mem_set->add_option("mib", number)->required();
    CLI::App* vcpu_set = command("vcpu-set", "Have the first vCPUs online, and no others", true);
    vcpu_set->add_option("count", number)->required();
    CLI::App* attach = command("block-attach", "Attach a disk; prints its device number", true);
    attach->add_option("target", disk.params)->required();
    attach->add_option("--vdev", disk.vdev);
    attach->add_option("--script", disk.script, "Run this hotplug script (default: do what the stock one does, run nothing)");
    attach->add_option("--kind", disk.kind)->check(CLI::IsMember({"vbd", "vbd3"}));
    attach->add_flag("--readonly", disk.readonly);
    attach->add_flag("--cdrom", disk.cdrom);
    attach->add_flag("--direct-io-safe", disk.direct_io_safe);
    CLI::App* detach = command("block-detach", "Detach a disk", true);
    detach->add_option("vdev", disk.vdev)->required();
    detach->add_flag("--force", force);
    NicSpec nic;
    CLI::App* nic_attach = command("network-attach", "Attach a NIC; its script is not run, the network device is yours", true);
    nic_attach->add_option("--handle", nic.handle);
    nic_attach->add_option("--mac", nic.mac);
    nic_attach->add_option("--bridge", nic.bridge);
    nic_attach->add_option("--script", nic.script);
    nic_attach->add_option("--ip", nic.ip);
    nic_attach->add_option("--rate", nic.rate, "bytes,microseconds");
    CLI::App* nic_detach = command("network-detach", "Detach a NIC", true);
    nic_detach->add_option("handle", nic.handle)->required();
    nic_detach->add_flag("--force", force);
    CLI::App* list = command("list", "All domains, as JSON", false);
    CLI::App* info = command("info", "One domain, as JSON", true);
    CLI::App* counters = command("counters", "What was called, mapped, copied and notified, as JSON", false);
    CLI::App* inject = command("inject", "Order faults, as JSON (see docs/embedded-core.md)", false);
    inject->add_option("json", word)->required();
    CLI11_PARSE(app, argc, argv);

    Result<Toolstack> connected = Toolstack::connect();
    if (!connected.ok()) return report(connected.error());
    Toolstack& toolstack = *connected;
    if (*list) return print_json(toolstack.list_domains());
    if (*counters) return print_json(toolstack.counters());
    if (*inject) return print_json(toolstack.inject(word));
    if (*create) {
        Result<std::uint16_t> domid = toolstack.create_domain(domain);
        if (!domid.ok()) return report(domid.error());
        std::printf("%u\n", unsigned{*domid});
        return 0;
    }
    Result<std::uint16_t> found = find_domain(toolstack, who);
    if (!found.ok()) return report(found.error());
    const std::uint16_t domid = *found;
    if (*info) return print_json(toolstack.domain_info(domid));
    if (*destroy) return report(toolstack.destroy_domain(domid));
    if (*kill) return report(toolstack.kill_domain(domid));
    if (*shutdown) return report(toolstack.shutdown_domain(domid, reasons.at(word)));
    if (*resume) return report(toolstack.resume_domain(domid));
    if (*pause || *unpause) return report(toolstack.pause_domain(domid, pause->parsed()));
    if (*rename) return report(toolstack.rename_domain(domid, word));
    if (*mem_set) return report(toolstack.set_memory_target(domid, number * 1024));
    if (*vcpu_set) return report(toolstack.set_vcpus(domid, static_cast<std::uint32_t>(number)));
    if (*attach) {
        disk.run_script = attach->count("--script") != 0;
        return report(disk_attach(toolstack, domid, disk));
    }
    if (*nic_attach) return report(toolstack.attach_nic(domid, nic));
    if (*nic_detach) return report(toolstack.detach_disk(domid, nic.handle, force));
    if (*detach) {
        std::optional<std::uint32_t> devid = device_number(disk.vdev);
        if (!devid) return report(os_error(EINVAL, "detach " + disk.vdev));
        return report(toolstack.detach_disk(domid, *devid, force));
    }
    return 2;
}

}  // namespace
}  // namespace ringback::xen::embedded

int main(int argc, char** argv) { return ringback::xen::embedded::run(argc, argv); }
