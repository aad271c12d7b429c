// SPDX-License-Identifier: Apache-2.0
#include "mac-pool/sightings.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "mac-pool/running.h"
#include "mac-pool/xl_config.h"

namespace ringback::mac {

namespace fs = std::filesystem;

namespace {

// What the kernel gives to the backend's end of a vif.
constexpr Mac kBackendEnd{0xfeffffffffff};

void see_xl_config(const std::string& path, Sightings& sightings) {
    const auto config = read_xl_config(path);
    if (!config.ok()) {
        sightings.problems.push_back(config.error().message);
        return;
    }
    if (config.value().vifs() == 0) return;
    const auto name = parse_guest_name(config.value().name());
    if (!name.ok()) {
        sightings.problems.push_back(fmt::format(
            "{}: {}", path, config.value().name().empty() ? "no name = '...'" : name.error().message));
        return;
    }
    for (size_t vif = 0; vif < config.value().vifs(); ++vif) {
        const auto mac = config.value().mac(vif);
        if (!mac) continue;
        sightings.found.push_back({*mac, Source::xl_config, config.value().place(vif),
                                   Guest{name.value(), config.value().uuid()}, static_cast<unsigned>(vif)});
    }
}

void see_table(std::istream& table, const std::string& path, Sightings& sightings) {
    constexpr size_t kLength = 17;
    size_t number = 0;
    for (std::string text; std::getline(table, text);) {
        ++number;
        for (size_t at = 0; at + kLength <= text.size(); ++at) {
            const auto mac = parse_mac(std::string_view(text).substr(at, kLength));
            if (!mac.ok()) continue;
            if (!mac.value().multicast() && !mac.value().zero()) {
                sightings.found.push_back(
                    {mac.value(), Source::switch_table, fmt::format("{}:{}", path, number), std::nullopt, 0});
            }
            break;
        }
    }
}

}  // namespace

const char* to_string(Source source) {
    switch (source) {
        case Source::xl_config:
            return "xl config";
        case Source::xenstore:
            return "xenstore";
        case Source::host_nic:
            return "host NIC";
        case Source::switch_table:
            return "switch table";
    }
    return "?";
}

void Sightings::add(Sightings other) {
    std::ranges::move(other.found, std::back_inserter(found));
    std::ranges::move(other.problems, std::back_inserter(problems));
}

Sightings see_xl_configs(const std::vector<std::string>& paths) {
    Sightings sightings;
    for (const std::string& path : paths) {
        std::error_code error;
        if (!fs::is_directory(path, error)) {
            see_xl_config(path, sightings);
            continue;
        }
        std::vector<std::string> files;
        for (fs::directory_iterator entry(path, error), end; !error && entry != end; entry.increment(error)) {
            if (entry->path().extension() == ".cfg") files.push_back(entry->path());
        }
        if (error) sightings.problems.push_back(fmt::format("read directory {}: {}", path, error.message()));
        std::ranges::sort(files);
        for (const std::string& file : files)
            see_xl_config(file, sightings);
    }
    return sightings;
}

Sightings see_xenstore(const xen::Store& store) {
    Sightings sightings;
    for (const RunningGuest& running : running_guests(store)) {
        for (const RunningVif& vif : running.vifs) {
            sightings.found.push_back({vif.mac, Source::xenstore, fmt::format("domain {}", running.domid),
                                       running.guest, vif.devid});
        }
    }
    return sightings;
}

Sightings see_host_nics(const std::string& directory) {
    Sightings sightings;
    std::error_code error;
    for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
         entry.increment(error)) {
        std::ifstream file(entry->path() / "address");
        std::string text;
        // Other kinds of network (InfiniBand, tunnels) have addresses of other lengths, or none.
        if (!std::getline(file, text)) continue;
        const auto mac = parse_mac(text);
        if (!mac.ok() || mac.value().zero() || mac.value() == kBackendEnd) continue;
        sightings.found.push_back({mac.value(), Source::host_nic, entry->path().filename(), std::nullopt, 0});
    }
    if (error) sightings.problems.push_back(fmt::format("read directory {}: {}", directory, error.message()));
    std::ranges::sort(sightings.found, {}, &Sighting::where);
    return sightings;
}

Sightings see_switch_table(const std::string& path) {
    Sightings sightings;
    if (path == "-") {
        see_table(std::cin, "standard input", sightings);
        return sightings;
    }
    std::ifstream file(path);
    if (!file) {
        sightings.problems.push_back(os_error("open " + path).message);
        return sightings;
    }
    see_table(file, path, sightings);
    return sightings;
}

}  // namespace ringback::mac
