// SPDX-License-Identifier: Apache-2.0
#include "netback/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>

#include "netback/worker_protocol.h"

namespace ringback::net {

namespace {

constexpr int64_t kMaxQueueLength = 4096;

// The worker is told a name in a field of fixed length: what is cut off there could be all that two names differ in.
Result<void> take_names(const Setting& setting, std::string& names) {
    constexpr size_t kLongest = sizeof(SwitchPort::name) - 1;
    TRY(setting.take(names));
    for (size_t begin = 0, end = 0; begin < names.size(); begin = end + 1) {
        end = std::min(names.find(' ', begin), names.size());
        if (end - begin <= kLongest) continue;
        return setting.wrong(fmt::format("has \"{}\", which is longer than {} characters", names.substr(begin, end - begin), kLongest));
    }
    return {};
}

Result<void> take_switch(const Setting& setting, Config& config) {
    constexpr int64_t kMost = UINT32_MAX;
    if (setting.key == "names") return take_names(setting, config.switch_names);
    if (setting.key == "check_source") return setting.take(0, 1, config.switch_check_source);
    if (setting.key == "floods_per_second") return setting.take(0, kMost, config.switch_floods);
    if (setting.key == "kilobytes_per_second") return setting.take(0, kMost, config.switch_kilobytes);
    if (setting.key == "table_entries") return setting.take(64, kMaxTableEntries, config.switch_table);
    if (setting.key == "ageing_seconds") return setting.take(10, 1'000'000, config.switch_ageing);
    if (setting.key == "address_wait_seconds") return setting.take(0, 3600, config.switch_address_wait);
    return setting.unknown();
}

Result<void> take_ovs(const Setting& setting, Config& config) {
    if (setting.key == "bridges") return setting.take(config.ovs_bridges);
    if (setting.key == "database") return setting.take(config.ovs_database);
    return setting.unknown();
}

bool is_among(const std::string& wanted, const std::string& names) {
    return !wanted.empty() && wanted.find(' ') == std::string::npos && (" " + names + " ").find(" " + wanted + " ") != std::string::npos;
}

// What `bridge` of a vif names must be one thing.
Result<void> check_names(const Config& config, const std::string& origin) {
    std::istringstream names(config.ovs_bridges);
    for (std::string name; names >> name;) {
        if (config.has_switch(name)) return Error{EINVAL, fmt::format("{}: [switch] names and [ovs-dpdk] bridges both have \"{}\"", origin, name)};
        if (name.starts_with('-')) return Error{EINVAL, fmt::format("{}: [ovs-dpdk] bridges: \"{}\" is no bridge", origin, name)};
    }
    return {};
}

Result<void> take_one(const Setting& setting, Config& config) {
    if (setting.section == "switch") return take_switch(setting, config);
    if (setting.section == "ovs-dpdk") return take_ovs(setting, config);
    if (setting.section == "vif") {
        if (setting.key == "max_queues") return setting.take(0, kMaxQueues, config.max_queues);
        if (setting.key == "queue_length") return setting.take(16, kMaxQueueLength, config.queue_length);
        return setting.unknown();
    }
    if (setting.key == "mac_pool_credentials") return setting.take(config.mac_pool.credentials);
    if (setting.key != "mac_pool") return config.take(setting);
    TRY(setting.take(config.mac_pool.url));
    const auto known = mac::check_url(config.mac_pool.url);
    if (!known) return setting.wrong("is no pool: " + known.error().message);
    return {};
}

}  // namespace

bool Config::has_switch(const std::string& wanted) const { return is_among(wanted, switch_names); }
bool Config::has_ovs_bridge(const std::string& wanted) const { return is_among(wanted, ovs_bridges); }

Result<Config> parse_config(const std::string& text, const std::string& origin) {
    const std::vector<Setting> settings = TRY(parse_settings(text, origin, {"vif", "switch", "ovs-dpdk"}));
    Config config;
    for (const Setting& setting : settings) TRY(take_one(setting, config));
    TRY(check_names(config, origin));
    return config;
}

Result<Config> load_config(const std::string& path) {
    return parse_config(TRY(read_settings(path, kConfigPath)), path);
}

}  // namespace ringback::net
