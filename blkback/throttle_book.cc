// SPDX-License-Identifier: Apache-2.0
#include "blkback/throttle_book.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <sstream>

#include "runtime/unique_fd.h"

namespace ringback::blk {

namespace {

nlohmann::json to_json(const Rate& rate) {
    return {{"operations", rate.operations}, {"bytes", rate.bytes}, {"burst_ms", rate.burst_ms}};
}

Rate rate_of(const nlohmann::json& from) {
    return {from.at("operations").get<uint64_t>(), from.at("bytes").get<uint64_t>(), from.at("burst_ms").get<uint32_t>()};
}

Result<void> write_whole(const std::string& path, const std::string& text) {
    const std::string fresh = path + ".new";
    const std::string directory = path.substr(0, path.rfind('/'));
    if (::mkdir(directory.c_str(), 0755) != 0 && errno != EEXIST) return os_error("create " + directory);
    const UniqueFd file(::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!file) return os_error("create " + fresh);
    size_t written = 0;
    while (written < text.size()) {
        const ssize_t count = ::write(file.get(), text.data() + written, text.size() - written);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return os_error("write " + fresh);
        written += static_cast<size_t>(count);
    }
    if (::fsync(file.get()) != 0) return os_error("sync " + fresh);
    if (::rename(fresh.c_str(), path.c_str()) != 0) return os_error("rename " + fresh + " to " + path);
    const UniqueFd parent(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!parent || ::fsync(parent.get()) != 0) return os_error("sync " + directory);
    return {};
}

}  // namespace

Result<ThrottleBook::Entries> ThrottleBook::parse(const std::string& text) {
    Entries entries;
    try {
        const nlohmann::json all = nlohmann::json::parse(text);
        for (const auto& [name, rate] : all.at("groups").items()) entries.groups[name] = rate_of(rate);
        for (const auto& [uuid, rate] : all.at("guests").items()) entries.guests[uuid] = rate_of(rate);
        for (const nlohmann::json& disk : all.at("disks")) {
            entries.disks[{disk.at("guest").get<std::string>(), disk.at("disk").get<std::string>()}] = {
                rate_of(disk), disk.at("weight").get<uint32_t>(), disk.at("group").get<std::string>()};
        }
    } catch (const nlohmann::json::exception& error) {
        return Error{EINVAL, error.what()};
    }
    return entries;
}

std::string ThrottleBook::to_text(const Entries& entries) {
    nlohmann::json all = {{"version", 1}, {"groups", nlohmann::json::object()}, {"guests", nlohmann::json::object()},
                          {"disks", nlohmann::json::array()}};
    for (const auto& [name, rate] : entries.groups) all["groups"][name] = to_json(rate);
    for (const auto& [uuid, rate] : entries.guests) all["guests"][uuid] = to_json(rate);
    for (const auto& [disk, throttle] : entries.disks) {
        nlohmann::json one = to_json(throttle.rate);
        one.update({{"guest", disk.first}, {"disk", disk.second}, {"weight", throttle.weight}, {"group", throttle.group}});
        all["disks"].push_back(std::move(one));
    }
    return all.dump(1) + "\n";
}

Result<void> ThrottleBook::load() {
    std::ifstream file(path_);
    if (!file) {
        if (errno == ENOENT) return {};
        return os_error("open " + path_);
    }
    std::ostringstream text;
    text << file.rdbuf();
    auto entries = parse(text.str());
    if (!entries) {
        unreadable_ = fmt::format("{} cannot be understood ({}): mend or remove it, and restart blkbackd", path_,
                                  entries.error().message);
        return Error{EINVAL, unreadable_};
    }
    entries_ = std::move(entries).value();
    return {};
}

Result<void> ThrottleBook::save(Entries entries) {
    if (!unreadable_.empty()) return Error{EINVAL, unreadable_};
    TRY(write_whole(path_, to_text(entries)));
    entries_ = std::move(entries);
    return {};
}

DiskThrottle ThrottleBook::disk(const Disk& disk) const {
    const auto found = entries_.disks.find(disk);
    return found == entries_.disks.end() ? DiskThrottle{} : found->second;
}

Rate ThrottleBook::guest(const std::string& uuid) const {
    const auto found = entries_.guests.find(uuid);
    return found == entries_.guests.end() ? Rate{} : found->second;
}

const Rate* ThrottleBook::group(const std::string& name) const {
    const auto found = entries_.groups.find(name);
    return found == entries_.groups.end() ? nullptr : &found->second;
}

Result<void> ThrottleBook::set_disk(const Disk& disk, const DiskThrottle& throttle) {
    Entries changed = entries_;
    changed.disks[disk] = throttle;
    if (throttle == DiskThrottle{}) changed.disks.erase(disk);
    return save(std::move(changed));
}

Result<void> ThrottleBook::set_guest(const std::string& uuid, const Rate& rate) {
    Entries changed = entries_;
    changed.guests[uuid] = rate;
    if (rate == Rate{}) changed.guests.erase(uuid);
    return save(std::move(changed));
}

Result<void> ThrottleBook::set_group(const std::string& name, const Rate& rate) {
    Entries changed = entries_;
    changed.groups[name] = rate;
    return save(std::move(changed));
}

Result<void> ThrottleBook::remove_group(const std::string& name) {
    Entries changed = entries_;
    changed.groups.erase(name);
    for (auto& [disk, throttle] : changed.disks) {
        if (throttle.group == name) throttle.group.clear();
    }
    std::erase_if(changed.disks, [](const auto& entry) { return entry.second == DiskThrottle{}; });
    return save(std::move(changed));
}

}  // namespace ringback::blk
