// SPDX-License-Identifier: Apache-2.0
#include "mac-pool/output.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <charconv>
#include <ctime>

namespace ringback::mac {

using nlohmann::json;

std::string time_text(int64_t seconds) {
    return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(static_cast<std::time_t>(seconds)));
}

Result<int64_t> parse_duration(std::string_view text) {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    const std::string_view unit = text.substr(static_cast<size_t>(end - text.data()));
    int64_t factor = 0;
    if (unit.empty() || unit == "s") factor = 1;
    if (unit == "m") factor = 60;
    if (unit == "h") factor = 3600;
    if (unit == "d") factor = 86400;
    constexpr int64_t kLongest = int64_t{10} * 365 * 86400;
    if (error != std::errc{} || factor == 0 || value < 0 || value > kLongest / factor) {
        return Error{EINVAL, fmt::format("'{}' is not a time of up to ten years: 24h, 90s, 15m or 7d", text)};
    }
    return value * factor;
}

json to_json(const Guest& guest) {
    if (guest == Guest{}) return nullptr;
    json object = json::object();
    object["name"] = guest.name.empty() ? json(nullptr) : json(guest.name);
    object["uuid"] = guest.uuid.empty() ? json(nullptr) : json(guest.uuid);
    return object;
}

json to_json(const Lease& lease) {
    json object{{"mac", lease.mac.text()},
                {"guest", to_json(lease.guest)},
                {"origin", to_string(lease.origin)},
                {"since", time_text(lease.since)}};
    object["nic"] = lease.guest == Guest{} ? json(nullptr) : json(lease.nic);
    if (!lease.note.empty()) object["note"] = lease.note;
    return object;
}

json to_json(Mac mac, const Resting& resting) {
    return {{"mac", mac.text()}, {"since", time_text(resting.since)}, {"until", time_text(resting.until)}};
}

json to_json(const Settings& settings) {
    json object{{"rest_seconds", settings.rest_seconds}};
    object["ranges"] = json::array();
    object["exclusions"] = json::array();
    for (const Range& range : settings.ranges)
        object["ranges"].push_back(range.text());
    for (const Range& range : settings.exclusions)
        object["exclusions"].push_back(range.text());
    return object;
}

json to_json(const Stats& stats) {
    return {{"size", stats.size},         {"in_use", stats.in_use},       {"outside", stats.outside},
            {"released", stats.released}, {"untouched", stats.untouched}, {"guests", stats.guests}};
}

std::string line(const Lease& lease) {
    return fmt::format("{}  {:6}  {}  {}", lease.mac.text(), to_string(lease.origin), time_text(lease.since),
                       holder_text(lease));
}

std::string line(Mac mac, const Resting& resting) {
    return fmt::format("{}  released {}  rests until {}", mac.text(), time_text(resting.since),
                       time_text(resting.until));
}

void print(const json& document) {
    fmt::print("{}\n", document.dump(2, ' ', false, json::error_handler_t::replace));
}

}  // namespace ringback::mac
