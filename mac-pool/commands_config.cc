// SPDX-License-Identifier: Apache-2.0
//
// The commands that read what is in use on this host, and write what a guest shall use.
#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>

#include "hypervisor/store.h"
#include "mac-pool/apply.h"
#include "mac-pool/commands.h"
#include "mac-pool/import.h"
#include "mac-pool/output.h"
#include "mac-pool/switch_tables.h"

namespace ringback::mac {

using nlohmann::json;

namespace {

constexpr const char* kHostNics = "/sys/class/net";
constexpr const char* kOpenVSwitch = "/run/openvswitch";
constexpr const char* kNetbackd = "/run/ringback/netbackd.sock";
constexpr const char* kXlConfigs = "/etc/xen";

Result<Sightings> look(const SourceRequest& sources) {
    Sightings all = see_xl_configs(sources.xl);
    if (sources.xenstore) {
        const xen::Store store = TRY(xen::Store::open());
        all.add(see_xenstore(store));
    }
    if (sources.host) all.add(see_host_nics(kHostNics));
    if (sources.switches) {
        all.add(see_bridges(kHostNics));
        all.add(see_open_vswitch(kOpenVSwitch));
        const char* socket = std::getenv("RINGBACK_NET_SOCKET");  // as the command ringback has it
        all.add(see_netbackd(socket == nullptr ? kNetbackd : socket));
    }
    if (!sources.switch_table.empty()) all.add(see_switch_table(sources.switch_table));
    for (const std::string& problem : all.problems)
        warn(problem);
    return all;
}

}  // namespace

int import(const Options& options, const SourceRequest& sources) {
    return with_pool(options, [&](Pool& pool) -> Result<int> {
        const Sightings seen = TRY(look(sources));
        const Imported done = TRY(import_sightings(pool, seen.found));
        for (const std::string& problem : done.problems)
            warn(problem);
        std::vector<std::string> problems = seen.problems;
        problems.insert(problems.end(), done.problems.begin(), done.problems.end());
        if (options.json) {
            print({{"added", done.added}, {"known", done.known}, {"problems", problems}});
        } else {
            fmt::print("{} addresses added, {} known before, {} problems\n", done.added, done.known,
                       problems.size());
        }
        return problems.empty() ? 0 : 1;
    });
}

int scan(const Options& options, SourceRequest sources) {
    if (sources.empty()) {
        sources.host = true;
        sources.switches = true;
        sources.xenstore = xen::Store::open().ok();
        std::error_code error;
        if (std::filesystem::is_directory(kXlConfigs, error)) sources.xl = {kXlConfigs};
    }
    return with_pool(options, [&](Pool& pool) -> Result<int> {
        const Sightings seen = TRY(look(sources));
        const std::vector<Clash> clashes = TRY(find_clashes(pool, seen.found));
        json list = json::array();
        for (const Clash& clash : clashes) {
            list.push_back(
                {{"mac", clash.mac.text()}, {"fault", to_string(clash.fault)}, {"text", clash.text}});
            if (!options.json) fmt::print("{}: {}\n", to_string(clash.fault), clash.text);
        }
        if (options.json) {
            print({{"seen", seen.found.size()}, {"clashes", list}, {"problems", seen.problems}});
        } else {
            fmt::print("{} addresses in use seen, {} clashes\n", seen.found.size(), clashes.size());
        }
        return clashes.empty() && seen.problems.empty() ? 0 : 1;
    });
}

int apply(const Options& options, const std::string& path, Clone clone) {
    return with_pool(options, [&](Pool& pool) -> Result<int> {
        XlConfig config = TRY(read_xl_config(path));
        const Applied done = TRY(apply(pool, config, clone));
        if (config.changed()) TRY(replace_file(path, config.text()));
        for (const std::string& note : done.notes)
            warn(note);
        json nics = json::array();
        for (const Applied::Nic& nic : done.nics) {
            const bool written = nic.before != nic.mac;
            json object{{"nic", nic.nic}, {"mac", nic.mac.text()}, {"written", written}};
            if (written && nic.before) object["instead_of"] = nic.before->text();
            nics.push_back(object);
            if (!options.json) {
                fmt::print("nic {}: {}{}\n", nic.nic, nic.mac.text(),
                           !written     ? ""
                           : nic.before ? fmt::format(", written instead of {}", nic.before->text())
                                        : ", written");
            }
        }
        if (options.json) {
            print({{"guest", to_json(done.guest)},
                   {"uuid_written", done.uuid_written},
                   {"nics", nics},
                   {"notes", done.notes}});
        } else if (done.uuid_written) {
            fmt::print("uuid: {}, written\n", done.guest.uuid);
        }
        return 0;
    });
}

}  // namespace ringback::mac
