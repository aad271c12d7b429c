// SPDX-License-Identifier: Apache-2.0
#include "tools/ringback_commands.h"

#include <fmt/format.h>

#include <array>

namespace ringback::tools {

namespace {

constexpr std::chrono::seconds kPatience{15};

int fail(const Error& error) {
    fmt::print(stderr, "ringback: {}\n", error.message);
    return 1;
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
    if (disk.contains("error")) fmt::print("           error: {}\n", disk.value("error", ""));
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

int status(const std::string& socket, const std::string& guest, bool json) {
    nlohmann::json request = {{"command", "status"}};
    if (!guest.empty()) request["guest"] = guest;
    const auto answer = ask(socket, std::move(request), kPatience);
    if (!answer) return fail(answer.error());
    const nlohmann::json& guests = answer.value()["guests"];
    if (json) {
        fmt::print("{}\n", guests.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
        return 0;
    }
    if (guests.empty()) fmt::print("no disks are served{}\n", guest.empty() ? "" : " for this guest");
    for (const nlohmann::json& entry : guests) {
        fmt::print("{} (domain {}, {}), worker {}\n", entry.value("name", "?"), entry.value("domid", 0),
                   entry.value("uuid", ""), entry.value("worker_pid", 0));
        for (const nlohmann::json& disk : entry["disks"]) print_disk(disk);
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

}  // namespace ringback::tools
