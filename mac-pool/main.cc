// SPDX-License-Identifier: Apache-2.0
//
// macpool: a MAC address of its own for every VNIC of a site. Exit code 0: done; 1: failed, or something is
// wrong; 2: called wrongly.
#include <CLI/CLI.hpp>

#include "mac-pool/commands.h"

using namespace ringback;

int main(int argc, char** argv) {
    CLI::App app("Gives every virtual NIC of a site a MAC address of its own, out of a pool that remembers.",
                 "macpool");
    app.set_version_flag("--version", std::string("macpool ") + RINGBACK_VERSION);
    app.require_subcommand(1);
    app.fallthrough();
    app.footer(
        "GUEST is a guest's name, its domid on this host, or its UUID.\n"
        "Exit status: 0 done, 1 failed or something is wrong, 2 called wrongly.");
    mac::Options options;
    app.add_option("--config", options.config, "Configuration file")->capture_default_str();
    app.add_option(
           "--pool", options.url,
           "The pool, instead of the configuration's: sqlite:/PATH or etcd+https://HOST:PORT,.../PREFIX")
        ->envname("RINGBACK_MAC_POOL");
    app.add_flag("--json", options.json, "Results as JSON");

    mac::InitRequest request;
    CLI::App* init = app.add_subcommand("init", "Makes a pool; of one that is there already it says so");
    init->add_option("RANGE", request.ranges,
                     "FIRST-LAST, one address, or first octets; without any: 00:16:3e, Xen's own");
    init->add_option("--exclude", request.exclusions, "A range that is never given out; may be repeated");
    init->add_option("--rest", request.rest, "How long a released address rests")->capture_default_str();

    std::string guest;
    unsigned nic = 0;
    CLI::App* allocate =
        app.add_subcommand("allocate", "Prints the address of a guest's NIC; draws one if it has none");
    allocate->add_option("--guest", guest, "The guest: name, domid or UUID")->required();
    allocate->add_option("--nic", nic, "Number of the NIC, from 0, as in the guest's vif list")
        ->required()
        ->check(CLI::Range(0, 65535));

    std::string mac;
    CLI::App* reserve =
        app.add_subcommand("reserve", "Holds an address by hand, inside the ranges or outside");
    reserve->add_option("MAC", mac, "The address")->required();
    CLI::Option* for_guest =
        reserve->add_option("--guest", guest, "For this guest; without it: for no guest, never given out");
    CLI::Option* for_nic =
        reserve->add_option("--nic", nic, "And this NIC of it")->check(CLI::Range(0, 65535));
    for_guest->needs(for_nic);
    for_nic->needs(for_guest);

    CLI::App* release =
        app.add_subcommand("release", "Gives an address back, or a guest's; it rests before it comes again");
    CLI::Option* by_mac = release->add_option("MAC", mac, "The address");
    CLI::Option* by_guest =
        release->add_option("--guest", guest, "All addresses of this guest")->excludes(by_mac);
    CLI::Option* by_nic = release->add_option("--nic", nic, "Only that of this NIC")
                              ->check(CLI::Range(0, 65535))
                              ->needs(by_guest);

    std::string word;
    CLI::App* show = app.add_subcommand("show", "Shows who holds an address, or what a guest holds");
    show->add_option("MAC|GUEST", word, "An address, or a guest")->required();

    bool resting = false;
    CLI::App* list = app.add_subcommand("list", "Lists all addresses that are held");
    list->add_flag("--resting", resting, "Those that were released and not given out again");

    mac::SourceRequest sources;
    const auto add_sources = [&](CLI::App* command) {
        command->add_option("--xl", sources.xl,
                            "An xl configuration, or a directory of *.cfg; may be repeated");
        command->add_flag("--xenstore", sources.xenstore, "The guests that run on this host");
        command->add_flag("--host", sources.host, "The host's own NICs");
        command->add_flag("--switch", sources.switches,
                          "What this host's switches have learned: Linux bridges, Open vSwitch, netbackd's own");
        command->add_option("--switch-table", sources.switch_table,
                            "A file with what a switch has learned (bridge fdb show, ovs-appctl fdb/show); - "
                            "for standard input");
    };
    CLI::App* import = app.add_subcommand("import", "Takes addresses that are in use into the pool");
    add_sources(import);
    CLI::App* scan = app.add_subcommand(
        "scan",
        "Looks for addresses in use that the pool gave to somebody else, or does not know; "
        "without options in all places that this host has; ends with 1 if there is one");
    add_sources(scan);

    std::string path;
    CLI::App* apply = app.add_subcommand(
        "apply", "Writes addresses into the vif lines of an xl configuration, and a uuid if it has none");
    apply->add_option("FILE", path, "The guest's configuration")->required();
    bool keep = false;
    bool fresh = false;
    CLI::Option* keeps = apply->add_flag("--keep", keep,
                                         "If its addresses or UUID are another guest's: it is that guest, "
                                         "renamed or restored, and keeps them");
    apply->add_flag("--new", fresh, "If so: it is a copy, and gets a UUID and addresses of its own")
        ->excludes(keeps);

    CLI::App* export_pool = app.add_subcommand("export", "Writes the whole pool as JSON");
    CLI::App* stats = app.add_subcommand("stats", "Counts addresses and guests");

    try {
        app.parse(argc, argv);
        if (release->parsed() && by_mac->empty() && by_guest->empty())
            throw CLI::RequiredError("release: MAC or --guest");
        if (import->parsed() && sources.empty())
            throw CLI::RequiredError("import: --xl, --xenstore, --host, --switch or --switch-table");
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : 2;
    }
    if (init->parsed()) return mac::init(options, request);
    if (allocate->parsed()) return mac::allocate(options, guest, nic);
    if (reserve->parsed()) return mac::reserve(options, mac, guest, nic);
    if (release->parsed())
        return mac::release(options, mac, guest, by_nic->empty() ? std::nullopt : std::optional(nic));
    if (show->parsed()) return mac::show(options, word);
    if (list->parsed()) return mac::list(options, resting);
    if (import->parsed()) return mac::import(options, sources);
    if (scan->parsed()) return mac::scan(options, sources);
    if (apply->parsed()) {
        return mac::apply(options, path,
                          keep    ? mac::Clone::keep
                          : fresh ? mac::Clone::fresh
                                  : mac::Clone::ask);
    }
    if (export_pool->parsed()) return mac::export_pool(options);
    if (stats->parsed()) return mac::stats(options);
    return 2;
}
