// SPDX-License-Identifier: Apache-2.0
#include "tools/ringback_commands.h"

#include <fmt/format.h>

#include <array>
#include <cerrno>

namespace ringback::tools {

namespace {

constexpr std::chrono::seconds kPatience{15};

int fail(const Error& error) {
    fmt::print(stderr, "ringback: {}\n", error.message);
    return 1;
}

// "500 requests/s, 10.0 MiB/s, burst 100 ms, weight 100, group gold"
std::string rate_text(const nlohmann::json& rate) {
    const auto operations = rate.value("operations", uint64_t{0});
    const auto bytes = rate.value("bytes", uint64_t{0});
    std::string text;
    if (operations != 0) text = fmt::format("{} requests/s", operations);
    if (bytes != 0) text += fmt::format("{}{}/s", text.empty() ? "" : ", ", human_size(bytes));
    text = text.empty() ? "not limited" : fmt::format("{}, burst {} ms", text, rate.value("burst_ms", 0));
    if (rate.contains("weight")) text += fmt::format(", weight {}", rate.value("weight", 0));
    if (!rate.value("group", "").empty()) text += fmt::format(", group {}", rate.value("group", ""));
    return text;
}

void print_disk(const nlohmann::json& disk) {
    const bool writable = disk.value("writable", false);
    fmt::print("  {:<8} {:<18} {:<12} {:>10} {} {}\n", disk.value("vdev", ""), disk.value("device", ""),
               disk.value("backend_state", ""), disk.contains("bytes") ? human_size(disk["bytes"].get<uint64_t>()) : "-",
               writable ? "rw" : "ro", disk.value("target", ""));
    if (disk.contains("direct") && !disk.value("direct", true)) {
        fmt::print("           through the page cache: {}\n", disk.value("why_buffered", ""));
    }
    if (disk.contains("queues")) {
        fmt::print("           {} queue(s), {}\n", disk.value("queues", 0),
                   disk.value("persistent_grants", false) ? "persistent grants" : "grant copy");
    }
    if (const auto counters = disk.find("counters"); counters != disk.end()) {
        fmt::print("           {} reads ({}), {} writes ({}), {} flushes, {} discards, {} errors, {} in flight{}\n",
                   counters->value("reads", uint64_t{0}), human_size(counters->value("read_bytes", uint64_t{0})),
                   counters->value("writes", uint64_t{0}), human_size(counters->value("write_bytes", uint64_t{0})),
                   counters->value("flushes", uint64_t{0}), counters->value("discards", uint64_t{0}),
                   counters->value("errors", uint64_t{0}), counters->value("in_flight", uint64_t{0}),
                   counters->value("sync_failed", false) ? "; A SYNC FAILED: writes are refused until it is reattached"
                                                         : "");
    }
    if (const auto rate = disk.find("throttle"); rate != disk.end()) fmt::print("           limited now: {}\n", rate_text(*rate));
    if (disk.value("recoveries", uint64_t{0}) > 0) {
        fmt::print("           {} worker(s) replaced; the latest pause was {} ms\n", disk.value("recoveries", uint64_t{0}),
                   disk.value("last_pause_ms", int64_t{0}));
    }
    if (disk.value("recovering", false)) fmt::print("           a new worker is taking over\n");
    if (disk.contains("error")) fmt::print("           error: {}\n", disk.value("error", ""));
}

void print_vif(const nlohmann::json& vif) {
    fmt::print("  {:<8} {:<18} {:<12} {:>10} {} {}\n", vif.value("interface", ""), vif.value("device", ""),
               vif.value("backend_state", ""), vif.value("mode", ""), vif.value("mac", ""), vif.value("bridge", ""));
    if (vif.contains("queues")) {
        fmt::print("           {} queue(s){}\n", vif.value("queues", 0), vif.value("link", true) ? "" : "; no link: nobody is behind its port");
    }
    if (const auto counters = vif.find("counters"); counters != vif.end()) {
        const auto count = [&](const char* key) { return counters->value(key, uint64_t{0}); };
        if (vif.value("mode", "") == "switch") {
            const nlohmann::json port = counters->value("switch", nlohmann::json::object());
            const auto on_port = [&](const char* key) { return port.value(key, uint64_t{0}); };
            fmt::print("           switched {}, flooded {}; refused: spoofed {}, VLAN {}, storm {}, policed {}; waited {}\n",
                       on_port("forwarded"), on_port("flooded"), on_port("spoofed"), on_port("vlan_refused"), on_port("storm"),
                       on_port("policed"), count("rx_waited"));
        }
        fmt::print("           sent {} packets ({}), received {} ({}); dropped {} and {}, errors {} and {}\n",
                   count("tx_packets"), human_size(count("tx_bytes")), count("rx_packets"), human_size(count("rx_bytes")),
                   count("tx_dropped"), count("rx_dropped"), count("tx_errors"), count("rx_errors"));
    }
    if (vif.contains("error")) fmt::print("           error: {}\n", vif.value("error", ""));
    if (const auto pool = vif.find("mac_pool"); pool != vif.end() && pool->value("state", "") != "agrees") {
        fmt::print("           MAC pool: {}\n", pool->value("text", ""));
    }
}

// The guests of netbackd, into those of blkbackd.
void add_nics(nlohmann::json& guests, const nlohmann::json& with_nics) {
    for (const nlohmann::json& from : with_nics) {
        nlohmann::json* same = nullptr;
        for (nlohmann::json& guest : guests) {
            if (guest.value("domid", -1) == from.value("domid", -2)) same = &guest;
        }
        if (same != nullptr) {
            (*same)["vifs"] = from["vifs"];
        } else {
            guests.push_back(from);
        }
    }
}

}  // namespace

std::string human_size(uint64_t bytes) {
    constexpr std::array kUnits{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    auto value = static_cast<double>(bytes);
    size_t unit = 0;
    while (value >= 1024 && unit + 1 < kUnits.size()) {
        value /= 1024;
        ++unit;
    }
    return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

int status(const std::string& socket, const std::string& net_socket, const std::string& guest, bool json) {
    nlohmann::json request = {{"command", "status"}};
    if (!guest.empty()) request["guest"] = guest;
    auto disks = ask(socket, request, kPatience);
    const auto nics = ask(net_socket, request, kPatience);
    const auto absent = [](const auto& answer) {
        return !answer && (answer.error().code == ENOENT || answer.error().code == ECONNREFUSED);
    };
    if (!disks && (!absent(disks) || !nics)) return fail(disks.error());
    if (!nics && !absent(nics)) return fail(nics.error());
    nlohmann::json guests = disks ? disks.value()["guests"] : nlohmann::json::array();
    if (nics) add_nics(guests, nics.value()["guests"]);
    if (json) {
        fmt::print("{}\n", guests.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
        return 0;
    }
    if (guests.empty()) fmt::print("nothing is served{}\n", guest.empty() ? "" : " for this guest");
    for (const nlohmann::json& entry : guests) {
        fmt::print("{} (domain {}, {})", entry.value("name", "?"), entry.value("domid", 0), entry.value("uuid", ""));
        if (entry.contains("worker_pid")) fmt::print(", worker {}", entry.value("worker_pid", 0));
        fmt::print("\n");
        for (const nlohmann::json& disk : entry.value("disks", nlohmann::json::array())) print_disk(disk);
        for (const nlohmann::json& vif : entry.value("vifs", nlohmann::json::array())) print_vif(vif);
    }
    return 0;
}

int resize(const std::string& socket, const std::string& guest, const std::string& vdev, uint64_t bytes) {
    nlohmann::json request = {{"command", "resize"}, {"guest", guest}, {"disk", vdev}};
    if (bytes != 0) request["bytes"] = bytes;
    const auto answer = ask(socket, std::move(request), kPatience);
    if (!answer) return fail(answer.error());
    const auto now = answer.value().value("bytes", uint64_t{0});
    fmt::print("{} of {} has {} bytes ({}) now\n", vdev, guest, now, human_size(now));
    return 0;
}

int throttle(const std::string& socket, const std::string& what, const std::string& vdev, const ThrottleChange& change, bool json) {
    constexpr std::string_view kGroup = "group:";
    const bool group = what.starts_with(kGroup);
    if (group && !vdev.empty()) return fail(Error{EINVAL, "a group has no disk of its own to name; disks join it with --group"});
    nlohmann::json request = {{"command", "throttle"}};
    request[group ? "group" : "guest"] = group ? what.substr(kGroup.size()) : what;
    if (!vdev.empty()) request["disk"] = vdev;
    const auto set = [&](const char* key, const auto& value) {
        if (value) request[key] = *value;
    };
    set("operations", change.operations);
    set("bytes", change.bytes);
    set("burst_ms", change.burst_ms);
    set("weight", change.weight);
    set("join", change.join);
    if (change.off) request["off"] = 1;
    const auto answer = ask(socket, std::move(request), kPatience);
    if (!answer) return fail(answer.error());
    if (json) {
        fmt::print("{}\n", answer.value().dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
        return 0;
    }
    fmt::print("{}{}{}: {}\n", what, vdev.empty() ? "" : " ", vdev, rate_text(answer.value()));
    for (const nlohmann::json& disk : answer.value().value("disks", nlohmann::json::array())) fmt::print("  {}\n", disk.get<std::string>());
    return 0;
}

int switch_table(const std::string& net_socket, const std::string& name, bool json) {
    const auto answer = ask(net_socket, {{"command", "switch-table"}, {"switch", name}}, kPatience);
    if (!answer) return fail(answer.error());
    const nlohmann::json entries = answer.value().value("entries", nlohmann::json::array());
    if (json) {
        fmt::print("{}\n", entries.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
        return 0;
    }
    for (const nlohmann::json& entry : entries) {
        const bool configured = entry.value("configured", false);
        fmt::print("{}  VLAN {:<4} {:<12} {:<20} {}\n", entry.value("mac", ""), entry.value("vlan", 0), entry.value("device", ""),
                   entry.value("guest", ""), configured ? "configured" : fmt::format("seen {} s ago", entry.value("age_seconds", 0)));
    }
    return 0;
}

}  // namespace ringback::tools
