// SPDX-License-Identifier: Apache-2.0
#include "blkback/config.h"

#include <fmt/format.h>
#include <sys/un.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

#include "blkback/worker_protocol.h"

namespace ringback::blk {

namespace {

Error wrong(const std::string& origin, const toml::node& node, std::string_view key, std::string_view what) {
    return {EINVAL, fmt::format("{}:{}: {} {}", origin, node.source().begin.line, key, what)};
}

Result<void> take(const std::string& origin, std::string_view key, const toml::node& node, std::string& to) {
    const auto value = node.value_exact<std::string>();
    if (!value || value->empty()) return wrong(origin, node, key, "must be a text in quotes");
    to = *value;
    return {};
}

Result<void> take(const std::string& origin, std::string_view key, const toml::node& node, bool& to) {
    const auto value = node.value_exact<bool>();
    if (!value) return wrong(origin, node, key, "must be true or false");
    to = *value;
    return {};
}

Result<void> take(const std::string& origin, std::string_view key, const toml::node& node,
                  std::vector<std::string>& to) {
    const toml::array* array = node.as_array();
    if (array == nullptr) return wrong(origin, node, key, "must be a list of texts");
    to.clear();
    for (const toml::node& entry : *array) {
        const auto value = entry.value_exact<std::string>();
        if (!value || value->empty()) return wrong(origin, entry, key, "must be a list of texts");
        to.push_back(*value);
    }
    return {};
}

Result<void> take_directories(const std::string& origin, std::string_view key, const toml::node& node,
                              std::vector<std::string>& to) {
    TRY(take(origin, key, node, to));
    for (std::string& directory : to) {
        if (directory.front() != '/') return wrong(origin, node, key, "must hold absolute paths");
        while (directory.size() > 1 && directory.back() == '/') directory.pop_back();
    }
    return {};
}

Result<void> take_roots(const std::string& origin, const toml::node& node, std::vector<std::string>& to) {
    TRY(take(origin, "roots", node, to));
    if (to.empty()) return wrong(origin, node, "roots", "must name at least one store directory");
    for (const std::string& root : to) {
        const bool shape = root.starts_with("backend/") && root.size() > 8 && root.find('/', 8) == std::string::npos;
        if (!shape || root.size() - 8 >= sizeof(Text<16>)) {
            return wrong(origin, node, "roots", "must hold entries of the form \"backend/KIND\"");
        }
    }
    return {};
}

Result<void> take_top(const std::string& origin, std::string_view key, const toml::node& node, Config& config) {
    if (key == "roots") return take_roots(origin, node, config.roots);
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

Result<void> take_policy(const std::string& origin, std::string_view key, const toml::node& node, Config& config) {
    if (key == "allow") return take_directories(origin, key, node, config.allow);
    if (key == "image_roots") return take_directories(origin, key, node, config.image_roots);
    if (key == "deny") return take_directories(origin, key, node, config.deny);
    return wrong(origin, node, key, "is not a setting of [policy]");
}

Result<void> take_disk(const std::string& origin, std::string_view key, const toml::node& node, Config& config) {
    if (key == "persistent_grants") return take(origin, key, node, config.persistent_grants);
    if (key == "barrier") return take(origin, key, node, config.barrier);
    if (key == "max_queues") {
        const auto value = node.value_exact<int64_t>();
        if (!value || *value < 0 || *value > static_cast<int64_t>(kMaxQueues)) {
            return wrong(origin, node, key, fmt::format("must be a number from 0 to {}", kMaxQueues));
        }
        config.max_queues = static_cast<uint32_t>(*value);
        return {};
    }
    return wrong(origin, node, key, "is not a setting of [disk]");
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
        if (name != "policy" && name != "disk") {
            TRY(take_top(origin, name, node, config));
            continue;
        }
        const toml::table* table = node.as_table();
        if (table == nullptr) return wrong(origin, node, name, "must be a table");
        for (const auto& [inner, value] : *table) {
            TRY(name == "policy" ? take_policy(origin, inner.str(), value, config)
                                 : take_disk(origin, inner.str(), value, config));
        }
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

}  // namespace ringback::blk
