// SPDX-License-Identifier: Apache-2.0
//
// ringback: what an administrator asks a host that runs Ringback. Exit code 0: done; 1: failed, or something is wrong; 2:
// called wrongly.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdlib>

#include "tools/ringback_commands.h"
#include "tools/ringback_hotplug.h"

using namespace ringback;

int main(int argc, char** argv) {
    CLI::App app("Looks after the virtual disks and NICs of Xen guests that Ringback serves.", "ringback");
    app.set_version_flag("--version", std::string("ringback ") + RINGBACK_VERSION);
    app.require_subcommand(1);
    std::string socket = tools::kControlSocket;
    app.add_option("--socket", socket, "Control socket of blkbackd")->envname("RINGBACK_SOCKET")->capture_default_str();

    std::string net_socket = tools::kNetControlSocket;
    app.add_option("--net-socket", net_socket, "Control socket of netbackd")->envname("RINGBACK_NET_SOCKET")->capture_default_str();

    std::string guest;
    bool json = false;
    CLI::App* status = app.add_subcommand("status", "Shows guests, their disks and their NICs");
    status->add_option("GUEST", guest, "Only this guest: its name, domid or UUID");
    status->add_flag("--json", json, "As JSON");

    CLI::App* doctor = app.add_subcommand(
        "doctor", "Says whether this host is ready, what is wrong and what mends it; ends with 1 if something is");

    CLI::App* disk = app.add_subcommand("disk", "Changes a disk that is in use");
    disk->require_subcommand(1);
    CLI::App* resize = disk->add_subcommand("resize", "Grows a disk; its guest sees the new size at once");
    std::string vdev;
    uint64_t size = 0;
    resize->add_option("GUEST", guest, "The guest: its name, domid or UUID")->required();
    resize->add_option("VDEV", vdev, "The disk as the guest's configuration has it: xvda")->required();
    resize
        ->add_option("SIZE", size,
                     "New size of a file, in bytes or with K, M, G, T (powers of 1024). Without it the storage has grown "
                     "already (a volume after lvextend) and is looked at again")
        ->transform(CLI::AsSizeValue(false))
        ->check(CLI::Range(uint64_t{512}, uint64_t{1} << 62));

    CLI::App* throttle = disk->add_subcommand(
        "throttle", "Limits disks, at once and for as long as nothing else is said; without a limit it says which there is");
    throttle->add_option("WHAT", guest, "A guest (name, domid, UUID): all of its disks together, or the one named; or group:NAME")->required();
    throttle->add_option("VDEV", vdev, "The disk as the guest's configuration has it: xvda");
    tools::ThrottleChange change;
    throttle->add_option("--iops", change.operations, "Requests a second; 0: no limit");
    throttle->add_option("--bytes", change.bytes, "Bytes a second, with K, M, G (powers of 1024); 0: no limit")->transform(CLI::AsSizeValue(false));
    throttle->add_option("--burst-ms", change.burst_ms, "A disk that was idle may take at once what it may take in this time (100)");
    throttle->add_option("--weight", change.weight, "The disk's share of what its guest or its group may have (100)");
    throttle->add_option("--group", change.join, "The disk is one of this group; \"\": of none");
    throttle->add_flag("--off", change.off, "Forgets all limits, and of a group the group");
    throttle->add_flag("--json", json, "As JSON");

    CLI::App* switches = app.add_subcommand("switch", "Looks into a built-in switch");
    switches->require_subcommand(1);
    CLI::App* table = switches->add_subcommand("table", "Shows which guest is behind which MAC address");
    std::string switch_name;
    table->add_option("NAME", switch_name, "The switch")->required();
    table->add_flag("--json", json, "As JSON");

    std::string action;
    CLI::App* hotplug = app.add_subcommand("hotplug", "")->group("");  // hidden: for the script block-ringback
    hotplug->add_option("ACTION", action)->required()->check(CLI::IsMember({"add", "remove"}));

    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : 2;
    }
    if (status->parsed()) return tools::status(socket, net_socket, guest, json);
    if (table->parsed()) return tools::switch_table(net_socket, switch_name, json);
    if (throttle->parsed()) return tools::throttle(socket, guest, vdev, change, json);
    if (doctor->parsed()) return tools::doctor(socket, net_socket);
    if (resize->parsed()) return tools::resize(socket, guest, vdev, size);
    const char* path = std::getenv("XENBUS_PATH");
    return tools::hotplug(action, path == nullptr ? "" : path, socket);
}
