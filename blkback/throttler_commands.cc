// SPDX-License-Identifier: Apache-2.0
//
// The command `throttle`: of a disk, of a guest, or of a group. What is not named stays as it is; with nothing named it says
// what holds.
#include <fmt/format.h>

#include <algorithm>

#include "blkback/throttler.h"
#include "hypervisor/guest.h"

namespace ringback::blk {

namespace {

constexpr uint64_t kMostOperations = 1'000'000'000;
constexpr uint64_t kMostBytes = uint64_t{1} << 50;
constexpr uint64_t kMostBurstMs = 60'000;
constexpr uint64_t kMostWeight = 10'000;
constexpr size_t kMostName = 64;

bool is_group_name(const std::string& name) {
    const auto fits = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.'; };
    return !name.empty() && name.size() <= kMostName && std::all_of(name.begin(), name.end(), fits);
}

bool is_uuid(const std::string& text) {
    if (text.size() != 36) return false;
    for (size_t i = 0; i < text.size(); ++i) {
        const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        const char c = text[i];
        const bool digit = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
        if (dash ? c != '-' : !digit) return false;
    }
    return true;
}

nlohmann::json to_json(const Rate& rate) {
    return {{"operations", rate.operations}, {"bytes", rate.bytes}, {"burst_ms", rate.burst_ms}};
}

}  // namespace

// What is to be changed.
struct Throttler::Asked {
    std::optional<uint64_t> operations, bytes, burst_ms, weight;
    std::optional<std::string> join;
    bool off = false;

    [[nodiscard]] bool rate() const { return operations || bytes || burst_ms; }
    [[nodiscard]] bool anything() const { return rate() || weight || join || off; }
    void change(Rate& rate) const {
        if (off) rate = {};
        if (operations) rate.operations = *operations;
        if (bytes) rate.bytes = *bytes;
        if (burst_ms) rate.burst_ms = static_cast<uint32_t>(*burst_ms);
    }
};

void Throttler::command(const ControlRequest& request, const Responder& respond) {
    auto answer = change(request);
    respond(answer ? std::move(answer).value() : control_error(answer.error().message));
}

Result<nlohmann::json> Throttler::change(const ControlRequest& request) {
    const auto guest = TRY(request.text("guest"));
    const auto disk = TRY(request.text("disk"));
    const auto group = TRY(request.text("group"));
    Asked asked;
    asked.operations = TRY(request.number("operations", kMostOperations));
    asked.bytes = TRY(request.number("bytes", kMostBytes));
    asked.burst_ms = TRY(request.number("burst_ms", kMostBurstMs));
    asked.weight = TRY(request.number("weight", kMostWeight));
    asked.join = TRY(request.text("join"));
    asked.off = TRY(request.number("off", 1)).value_or(0) != 0;
    if (guest.has_value() == group.has_value()) return Error{EINVAL, "throttle needs a guest or a group"};
    if (asked.burst_ms && *asked.burst_ms == 0) return Error{EINVAL, "a burst is at least 1 ms"};
    if (asked.weight && *asked.weight == 0) return Error{EINVAL, "a weight is at least 1"};
    if (!disk && (asked.weight || asked.join)) return Error{EINVAL, "a weight and a group are those of a disk: name it"};
    if (group) return change_group(*group, asked);
    const std::string uuid = TRY(uuid_of(*guest));
    return disk ? change_disk({uuid, *disk}, asked) : change_guest(uuid, asked);
}

// A guest that is not running has its UUID only.
Result<std::string> Throttler::uuid_of(const std::string& guest) const {
    const auto domid = xen::find_guest(store_, guest);
    if (!domid) return is_uuid(guest) ? Result<std::string>(guest) : Result<std::string>(domid.error());
    std::string uuid = xen::guest_uuid(store_, domid.value());
    if (uuid.empty()) return Error{ENOENT, fmt::format("guest \"{}\" has no UUID in the store", guest)};
    return uuid;
}

Result<nlohmann::json> Throttler::change_group(const std::string& name, const Asked& asked) {
    if (!is_group_name(name)) {
        return Error{EINVAL, fmt::format("\"{}\" is no name of a group: 1 to {} letters, digits, -, _ and .", name, kMostName)};
    }
    const Rate* group = book_.group(name);
    if (group == nullptr && !asked.rate()) return Error{ENOENT, fmt::format("there is no group \"{}\"", name)};
    if (asked.off) {
        TRY(book_.remove_group(name));
    } else if (asked.anything()) {
        Rate rate = group == nullptr ? Rate{} : *group;
        asked.change(rate);
        TRY(book_.set_group(name, rate));
    }
    if (asked.anything()) deal();
    group = book_.group(name);
    nlohmann::json answer = to_json(group == nullptr ? Rate{} : *group);
    answer["ok"] = true;
    answer["disks"] = nlohmann::json::array();
    for (const auto& [id, member] : members_) {
        if (group != nullptr && member.own.group == name) answer["disks"].push_back(id.text());
    }
    return answer;
}

Result<nlohmann::json> Throttler::change_guest(const std::string& uuid, const Asked& asked) {
    Rate rate = book_.guest(uuid);
    if (asked.anything()) {
        asked.change(rate);
        TRY(book_.set_guest(uuid, rate));
        deal();
    }
    nlohmann::json answer = to_json(rate);
    answer["ok"] = true;
    return answer;
}

Result<nlohmann::json> Throttler::change_disk(const ThrottleBook::Disk& disk, const Asked& asked) {
    const bool here = std::any_of(members_.begin(), members_.end(), [&](const auto& entry) {
        return entry.second.uuid == disk.first && entry.second.device->vdev() == disk.second;
    });
    DiskThrottle throttle = book_.disk(disk);
    if (!here && throttle == DiskThrottle{}) {
        return Error{ENOENT, fmt::format("guest {} has no open disk \"{}\" here", disk.first, disk.second)};
    }
    if (asked.join && !asked.join->empty() && book_.group(*asked.join) == nullptr) {
        return Error{ENOENT, fmt::format("there is no group \"{}\": limit it first", *asked.join)};
    }
    if (asked.anything()) {
        if (asked.off) throttle = {};
        asked.change(throttle.rate);
        if (asked.weight) throttle.weight = static_cast<uint32_t>(*asked.weight);
        if (asked.join) throttle.group = *asked.join;
        TRY(book_.set_disk(disk, throttle));
        deal();
    }
    nlohmann::json answer = to_json(throttle.rate);
    answer.update({{"ok", true}, {"weight", throttle.weight}, {"group", throttle.group}});
    return answer;
}

}  // namespace ringback::blk
