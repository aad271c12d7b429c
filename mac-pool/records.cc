// SPDX-License-Identifier: Apache-2.0
#include "mac-pool/records.h"

#include <fmt/format.h>

#include <charconv>
#include <nlohmann/json.hpp>

namespace ringback::mac {

using nlohmann::json;

namespace {

constexpr int kFormat = 1;

Error damaged(const std::string& key) {
    return {EUCLEAN, fmt::format("the pool is damaged: cannot read its record {}", key)};
}

// Takes `text` apart with `take`, which may throw as the JSON library does for absent and wrong members.
template <typename Take>
Result<void> parse(const std::string& key, const std::string& text, const Take& take) {
    try {
        if (take(json::parse(text))) return {};
    } catch (const json::exception&) {
    }
    return damaged(key);
}

json write_ranges(const std::vector<Range>& ranges) {
    json list = json::array();
    for (const Range& range : ranges)
        list.push_back(range.text());
    return list;
}

bool read_ranges(const json& list, std::vector<Range>& to) {
    to.clear();
    for (const json& text : list) {
        const auto range = parse_range(text.get<std::string>());
        if (!range.ok()) return false;
        to.push_back(range.value());
    }
    return true;
}

std::string hex(Mac mac) {
    return fmt::format("{:012x}", mac.value);
}

std::optional<uint64_t> unhex(std::string_view text) {
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
    if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    return value;
}

}  // namespace

const char* to_string(Origin origin) {
    switch (origin) {
        case Origin::pool:
            return "pool";
        case Origin::hand:
            return "hand";
        case Origin::import:
            return "import";
    }
    return "?";
}

std::string guest_id(const Guest& guest) {
    return guest.uuid.empty() ? "name=" + guest.name : guest.uuid;
}

namespace key {
std::string guest(const std::string& id) {
    return kGuests + id;
}
std::string names(const std::string& name) {
    return kNames + name + "/";
}
std::string name(const std::string& name, const std::string& uuid) {
    return names(name) + uuid;
}
std::string mac(Mac mac) {
    return kMacs + hex(mac);
}
std::string resting(Mac mac) {
    return kResting + hex(mac);
}
std::string paused(Mac mac) {
    return kPaused + hex(mac);
}
std::string queue(uint64_t number) {
    return kQueue + fmt::format("{:016x}", number);
}
std::string draw_at(uint64_t position) {
    return fmt::format("moved/at/{:012x}", position);
}
std::string position_of(uint64_t draw) {
    return fmt::format("moved/to/{:012x}", draw);
}
}  // namespace key

std::string write(const Settings& settings) {
    return json{{"format", kFormat},
                {"ranges", write_ranges(settings.ranges)},
                {"exclusions", write_ranges(settings.exclusions)},
                {"rest_seconds", settings.rest_seconds},
                {"key", fmt::format("{:016x}{:016x}", settings.key[0], settings.key[1])}}
        .dump();
}

std::string write(const Progress& progress) {
    return json{{"next", progress.next}, {"end", progress.end}, {"released", progress.released}}.dump();
}

std::string write(const Holding& holding) {
    json record{{"origin", to_string(holding.origin)}, {"since", holding.since}};
    if (!holding.guest.empty()) {
        record["guest"] = holding.guest;
        record["nic"] = holding.nic;
    }
    if (!holding.note.empty()) record["note"] = holding.note;
    return record.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string write(const GuestRecord& record) {
    json nics = json::object();
    for (const auto& [nic, mac] : record.nics)
        nics[std::to_string(nic)] = mac.text();
    json text{{"nics", nics}};
    if (!record.guest.name.empty()) text["name"] = record.guest.name;
    if (!record.guest.uuid.empty()) text["uuid"] = record.guest.uuid;
    return text.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string write(const Resting& resting) {
    return json{{"number", resting.number}, {"since", resting.since}, {"until", resting.until}}.dump();
}

std::string write(uint64_t number) {
    return std::to_string(number);
}

Result<void> read(const std::string& key, const std::string& text, Settings& to) {
    const auto format = json::parse(text, nullptr, false);
    if (format.is_object() && format.value("format", kFormat) != kFormat) {
        return Error{EINVAL, fmt::format("the pool has format {}; this program knows format {}",
                                         format.value("format", 0), kFormat)};
    }
    return parse(key, text, [&](const json& record) {
        to.rest_seconds = record.at("rest_seconds").get<int64_t>();
        const std::string digits = record.at("key").get<std::string>();
        if (digits.size() != 32) return false;
        const auto high = unhex(std::string_view(digits).substr(0, 16));
        const auto low = unhex(std::string_view(digits).substr(16));
        if (!high || !low) return false;
        to.key = {*high, *low};
        return read_ranges(record.at("ranges"), to.ranges) &&
               read_ranges(record.at("exclusions"), to.exclusions);
    });
}

Result<void> read(const std::string& key, const std::string& text, Progress& to) {
    return parse(key, text, [&](const json& record) {
        to = {record.at("next").get<uint64_t>(), record.at("end").get<uint64_t>(),
              record.at("released").get<uint64_t>()};
        return true;
    });
}

Result<void> read(const std::string& key, const std::string& text, Holding& to) {
    return parse(key, text, [&](const json& record) {
        const std::string origin = record.at("origin").get<std::string>();
        if (origin != "pool" && origin != "hand" && origin != "import") return false;
        to.origin = origin == "pool" ? Origin::pool : origin == "hand" ? Origin::hand : Origin::import;
        to.since = record.at("since").get<int64_t>();
        to.guest = record.value("guest", std::string());
        to.nic = record.value("nic", 0U);
        to.note = record.value("note", std::string());
        return true;
    });
}

Result<void> read(const std::string& key, const std::string& text, GuestRecord& to) {
    return parse(key, text, [&](const json& record) {
        to.guest = {record.value("name", std::string()), record.value("uuid", std::string())};
        to.nics.clear();
        for (const auto& [nic, mac] : record.at("nics").items()) {
            const auto parsed = parse_mac(mac.get<std::string>());
            unsigned index = 0;
            const auto [end, error] = std::from_chars(nic.data(), nic.data() + nic.size(), index);
            if (!parsed.ok() || error != std::errc{} || end != nic.data() + nic.size()) return false;
            to.nics[index] = parsed.value();
        }
        return true;
    });
}

Result<void> read(const std::string& key, const std::string& text, Resting& to) {
    return parse(key, text, [&](const json& record) {
        to = {record.at("number").get<uint64_t>(), record.at("since").get<int64_t>(),
              record.at("until").get<int64_t>()};
        return true;
    });
}

Result<void> read(const std::string& key, const std::string& text, uint64_t& to) {
    return parse(key, text, [&](const json& record) {
        to = record.get<uint64_t>();
        return true;
    });
}

Result<Mac> mac_of_key(const std::string& key) {
    const size_t slash = key.rfind('/');
    const auto value = unhex(std::string_view(key).substr(slash + 1));
    if (!value) return damaged(key);
    return Mac{*value};
}

}  // namespace ringback::mac
