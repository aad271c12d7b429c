// SPDX-License-Identifier: Apache-2.0
#include "netback/config.h"

#include <fmt/format.h>
#include <sys/un.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

#include "netback/worker_protocol.h"

namespace ringback::net {

namespace {

constexpr int64_t kMaxQueueLength = 4096;

Error wrong(const std::string& origin, const toml::node& node, std::string_view key, std::string_view what) {
    return {EINVAL, fmt::format("{}:{}: {} {}", origin, node.source().begin.line, key, what)};
}

Result<void> take(const std::string& origin, std::string_view key, const toml::node& node, std::string& to) {
    const auto value = node.value_exact<std::string>();
    if (!value || value->empty()) return wrong(origin, node, key, "must be a text in quotes");
    to = *value;
    return {};
}

Result<void> take(const std::string& origin, std::string_view key, const toml::node& node, int64_t low, int64_t high,
                  uint32_t& to) {
    const auto value = node.value_exact<int64_t>();
    if (!value || *value < low || *value > high) {
        return wrong(origin, node, key, fmt::format("must be a number from {} to {}", low, high));
    }
    to = static_cast<uint32_t>(*value);
    return {};
}

Result<void> take_top(const std::string& origin, std::string_view key, const toml::node& node, Config& config) {
    if (key == "runtime_directory") {
        TRY(take(origin, key, node, config.runtime_directory));
        if (config.runtime_directory.front() != '/') return wrong(origin, node, key, "must be an absolute path");
        if (config.worker_socket().size() >= sizeof(sockaddr_un::sun_path)) {
            return wrong(origin, node, key, "is too long for a socket's path");
        }
        return {};
    }
    if (key == "control_group") return take(origin, key, node, config.control_group);
    if (key == "worker_program") return take(origin, key, node, config.worker_program);
    if (key == "worker_start") {
        std::string value;
        TRY(take(origin, key, node, value));
        if (value != "systemd" && value != "fork") return wrong(origin, node, key, "must be \"systemd\" or \"fork\"");
        config.worker_start = value == "fork" ? WorkerStart::fork : WorkerStart::systemd;
        return {};
    }
    return wrong(origin, node, key, "is not a setting");
}

Result<void> take_vif(const std::string& origin, std::string_view key, const toml::node& node, Config& config) {
    if (key == "max_queues") return take(origin, key, node, 0, kMaxQueues, config.max_queues);
    if (key == "queue_length") return take(origin, key, node, 16, kMaxQueueLength, config.queue_length);
    return wrong(origin, node, key, "is not a setting of [vif]");
}

}  // namespace

Result<Config> parse_config(const std::string& text, const std::string& origin) {
    const toml::parse_result parsed = toml::parse(text, origin);
    if (!parsed) {
        return Error{EINVAL, fmt::format("{}:{}: {}", origin, parsed.error().source().begin.line,
                                         parsed.error().description())};
    }
    Config config;
    for (const auto& [key, node] : parsed.table()) {
        const std::string_view name = key.str();
        if (name != "vif") {
            TRY(take_top(origin, name, node, config));
            continue;
        }
        const toml::table* table = node.as_table();
        if (table == nullptr) return wrong(origin, node, name, "must be a table");
        for (const auto& [inner, value] : *table) TRY(take_vif(origin, inner.str(), value, config));
    }
    return config;
}

Result<Config> load_config(const std::string& path) {
    if (path == kConfigPath && ::access(path.c_str(), F_OK) != 0 && errno == ENOENT) return Config{};
    std::ifstream file(path);
    if (!file) return os_error("read configuration " + path);
    std::ostringstream text;
    text << file.rdbuf();
    return parse_config(text.str(), path);
}

}  // namespace ringback::net
