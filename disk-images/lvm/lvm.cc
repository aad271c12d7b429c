// SPDX-License-Identifier: Apache-2.0
#include "disk-images/lvm/lvm.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "runtime/command.h"

namespace ringback::image::lvm {

namespace {

// Of volumes only: with a field of a segment (segtype) lvs has a row for each segment.
constexpr const char* kFields =
    "vg_name,lv_name,lv_path,lv_size,lv_active,lv_device_open,lv_layout,origin,pool_lv,data_percent,lv_health_status,"
    "lv_permissions";

bool good_part(std::string_view part) {
    // lvm(8), valid names; "." and ".." and a leading hyphen are not.
    if (part.empty() || part.size() > 127 || part.front() == '-' || part == "." || part == "..") return false;
    return std::all_of(part.begin(), part.end(), [](unsigned char c) {
        return std::isalnum(c) != 0 || c == '+' || c == '_' || c == '.' || c == '-';
    });
}

// A report in JSON may hold what went wrong, line by line, and then stderr does not.
std::string logged_errors(const std::string& text) {
    std::string lines;
    const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
    if (!json.is_object() || !json.contains("log") || !json["log"].is_array()) return lines;
    for (const nlohmann::json& entry : json["log"]) {
        const auto is_text = [&](const char* key) { return entry.is_object() && entry.contains(key) && entry[key].is_string(); };
        if (!is_text("log_type") || entry["log_type"] != "error" || !is_text("log_message")) continue;
        lines += "\n" + entry["log_message"].get<std::string>();
    }
    return lines;
}

}  // namespace

Result<Name> parse_name(std::string_view text) {
    const size_t slash = text.find('/');
    if (slash == std::string_view::npos || !good_part(text.substr(0, slash)) || !good_part(text.substr(slash + 1))) {
        return Error{EINVAL, fmt::format("lvm:{}: no name of a volume; give lvm:group/volume", text)};
    }
    return Name{std::string(text.substr(0, slash)), std::string(text.substr(slash + 1))};
}

std::vector<std::string> lookup_arguments(const Name& name) {
    return {"lvs", "--all", "--reportformat", "json", "--units", "b", "--nosuffix", "--binary", "-o", kFields, name.text()};
}

Result<Volume> read_volume(const Name& name, const std::string& text) {
    const auto bad = [&](const std::string& what) {
        return Error{EPROTO, fmt::format("look up lvm:{}: the answer of lvs {}", name.text(), what)};
    };
    const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
    if (json.is_discarded()) return bad("is no JSON");
    const auto report = json.find("report");
    if (report == json.end() || !report->is_array() || report->empty() || !report->front().contains("lv") ||
        !report->front()["lv"].is_array()) {
        return bad("holds no report");
    }
    const nlohmann::json& volumes = report->front()["lv"];
    if (volumes.empty()) return Error{ENOENT, fmt::format("look up lvm:{}: there is no such volume", name.text())};
    if (volumes.size() != 1 || !volumes.front().is_object()) return bad("is about more than one volume");
    const nlohmann::json& found = volumes.front();
    const auto field = [&](const char* key) {
        const auto at = found.find(key);
        return at != found.end() && at->is_string() ? at->get<std::string>() : std::string();
    };
    // LVM writes "1", or a word, depending on the field and its version.
    const auto set = [&](const char* key) {
        const std::string value = field(key);
        return !value.empty() && value != "0" && value != "-1" && value != "unknown";
    };
    // LVM writes the names of parts of other volumes in brackets.
    const std::string found_name = field("lv_name");
    if (field("vg_name") != name.group || (found_name != name.volume && found_name != "[" + name.volume + "]")) {
        return bad("is about another volume");
    }
    Volume volume;
    volume.name = name;
    volume.path = field("lv_path");
    char* end = nullptr;
    const std::string size = field("lv_size");
    volume.bytes = std::strtoull(size.c_str(), &end, 10);
    if (size.empty() || end == size.c_str() || *end != '\0') return bad("has no size");
    volume.active = set("lv_active");
    volume.open = set("lv_device_open");
    const std::string permissions = field("lv_permissions");
    volume.writable = permissions != "0" && !permissions.starts_with("read-only");
    // "linear", "thin,sparse", "thin,pool", ...
    const std::string layout = field("lv_layout");
    volume.thin_pool = layout == "thin,pool";
    volume.thin = layout.starts_with("thin") && !volume.thin_pool;
    volume.origin = field("origin");
    volume.pool = field("pool_lv");
    if (const std::string percent = field("data_percent"); !percent.empty()) {
        volume.data_percent = std::strtod(percent.c_str(), nullptr);
    }
    volume.health = field("lv_health_status");
    return volume;
}

Result<void> check_usable(const Volume& volume) {
    const std::string name = volume.name.text();
    if (volume.thin_pool) {
        return Error{EINVAL, fmt::format("lvm:{} is a thin pool, no disk; make a volume in it: lvcreate -V SIZE -T {} -n NAME", name,
                                         name)};
    }
    if (volume.path.empty()) return Error{EINVAL, fmt::format("lvm:{} is a part of another volume, no disk", name)};
    // Where it would lie if the names are what was asked for; not wherever an answer says.
    if (volume.path != volume.name.path()) {
        return Error{EPROTO, fmt::format("look up lvm:{}: it would be at {}", name, volume.path)};
    }
    if (!volume.health.empty()) return Error{EIO, fmt::format("lvm:{} is not healthy: {}", name, volume.health)};
    return {};
}

Lvm::Lvm(std::string program) : program_(std::move(program)) {
    if (program_.empty()) program_ = "lvm";
}

Result<std::string> Lvm::run(const std::string& doing, const std::vector<std::string>& arguments) const {
    std::vector<std::string> words{program_};
    words.insert(words.end(), arguments.begin(), arguments.end());
    CommandOutput output = TRY(run_command(words));
    if (output.status == 0) return output.text;
    output.complaints += logged_errors(output.text);
    return Error{output.status == 127 ? ENOENT : EIO, fmt::format("{}: {}", doing, explain(output, words, "lvm2"))};
}

Result<Volume> Lvm::lookup(const Name& name) const {
    const std::string answer = TRY(run("look up lvm:" + name.text(), lookup_arguments(name)));
    return read_volume(name, answer);
}

Result<Volume> Lvm::activate(const Name& name, bool writable) const {
    Volume volume = TRY(lookup(name));
    TRY(check_usable(volume));
    if (writable && !volume.writable) {
        return Error{EROFS, fmt::format("lvm:{} is read-only for LVM itself; use access=ro", name.text())};
    }
    if (writable && volume.open) {
        return Error{EBUSY, fmt::format("lvm:{} is in use: something has it open (mounted, or another guest's disk)", name.text())};
    }
    if (!volume.active) {
        // Snapshots of thin volumes are not activated unless one insists.
        TRY(run("activate lvm:" + name.text(), {"lvchange", "--activate", "y", "--ignoreactivationskip", name.text()}));
        volume = TRY(lookup(name));
        if (!volume.active) {
            return Error{EBUSY, fmt::format("activate lvm:{}: it stays inactive (is it active on another host?)", name.text())};
        }
    }
    return volume;
}

Result<void> Lvm::deactivate(const Name& name) const {
    TRY(run("deactivate lvm:" + name.text(), {"lvchange", "--activate", "n", name.text()}));
    return {};
}

Result<Volume> Lvm::extend(const Name& name, uint64_t bytes) const {
    const Volume volume = TRY(lookup(name));
    TRY(check_usable(volume));
    if (bytes < volume.bytes) {
        return Error{EINVAL, fmt::format("resize lvm:{} from {} to {} bytes: it only grows", name.text(), volume.bytes, bytes)};
    }
    if (bytes == volume.bytes) return volume;
    TRY(run("extend lvm:" + name.text(), {"lvextend", "--size", fmt::format("{}b", bytes), name.text()}));
    return lookup(name);
}

Result<void> Lvm::snapshot(const Name& origin, const std::string& name, uint64_t bytes) const {
    const Name made = TRY(parse_name(origin.group + "/" + name));
    const Volume volume = TRY(lookup(origin));
    TRY(check_usable(volume));
    std::vector<std::string> arguments{"lvcreate", "--snapshot", "--name", made.volume};
    if (!volume.thin) {
        if (bytes == 0) {
            return Error{EINVAL, fmt::format("snapshot of lvm:{}: it is no thin volume, so the snapshot needs a size", origin.text())};
        }
        arguments.insert(arguments.end(), {"--size", fmt::format("{}b", bytes)});
    }
    arguments.push_back(origin.text());
    TRY(run("snapshot of lvm:" + origin.text(), arguments));
    return {};
}

}  // namespace ringback::image::lvm
