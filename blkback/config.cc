// SPDX-License-Identifier: Apache-2.0
#include "blkback/config.h"

#include "blkback/worker_protocol.h"

namespace ringback::blk {

namespace {

Result<void> take_directories(const Setting& setting, std::vector<std::string>& to) {
    TRY(setting.take(to));
    for (std::string& directory : to) {
        if (directory.front() != '/') return setting.wrong("must hold absolute paths");
        while (directory.size() > 1 && directory.back() == '/') directory.pop_back();
    }
    return {};
}

Result<void> take_roots(const Setting& setting, std::vector<std::string>& to) {
    TRY(setting.take(to));
    if (to.empty()) return setting.wrong("must name at least one store directory");
    for (const std::string& root : to) {
        const bool shape = root.starts_with("backend/") && root.size() > 8 && root.find('/', 8) == std::string::npos;
        if (!shape || root.size() - 8 >= sizeof(Text<16>)) {
            return setting.wrong("must hold entries of the form \"backend/KIND\"");
        }
    }
    return {};
}

Result<void> take_policy(const Setting& setting, Config& config) {
    if (setting.key == "allow") return take_directories(setting, config.allow);
    if (setting.key == "image_roots") return take_directories(setting, config.image_roots);
    if (setting.key == "deny") return take_directories(setting, config.deny);
    return setting.unknown();
}

Result<void> take_disk(const Setting& setting, Config& config) {
    if (setting.key == "persistent_grants") return setting.take(config.persistent_grants);
    if (setting.key == "barrier") return setting.take(config.barrier);
    if (setting.key == "nbd_reconnect_seconds") return setting.take(0, 86'400, config.nbd_reconnect_seconds);
    if (setting.key == "max_queues") return setting.take(0, kMaxQueues, config.max_queues);
    return setting.unknown();
}

Result<void> take_one(const Setting& setting, Config& config) {
    if (setting.section == "policy") return take_policy(setting, config);
    if (setting.section == "disk") return take_disk(setting, config);
    if (setting.key == "roots") return take_roots(setting, config.roots);
    if (setting.key == "state_directory") {
        TRY(setting.take(config.state_directory));
        return config.state_directory.front() == '/' ? Result<void>{} : setting.wrong("must be an absolute path");
    }
    return config.take(setting);
}

}  // namespace

Result<Config> parse_config(const std::string& text, const std::string& origin) {
    const std::vector<Setting> settings = TRY(parse_settings(text, origin, {"policy", "disk"}));
    Config config;
    for (const Setting& setting : settings) TRY(take_one(setting, config));
    return config;
}

Result<Config> load_config(const std::string& path) {
    return parse_config(TRY(read_settings(path, kConfigPath)), path);
}

}  // namespace ringback::blk
