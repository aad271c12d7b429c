// SPDX-License-Identifier: Apache-2.0
#include "runtime/settings.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

namespace ringback {

namespace {

std::string place_of(const std::string& origin, const toml::source_region& source) {
    return fmt::format("{}:{}", origin, source.begin.line);
}

Setting setting_of(const std::string& origin, std::string_view section, std::string_view key, const toml::node& node) {
    Setting setting{place_of(origin, node.source()), std::string(section), std::string(key), {}};
    if (const auto text = node.value_exact<std::string>()) setting.value = *text;
    if (const auto truth = node.value_exact<bool>()) setting.value = *truth;
    if (const auto number = node.value_exact<int64_t>()) setting.value = *number;
    const toml::array* array = node.as_array();
    if (array == nullptr) return setting;
    std::vector<std::string> list;
    for (const toml::node& entry : *array) {
        list.push_back(entry.value_exact<std::string>().value_or(""));
        if (!list.back().empty()) continue;
        setting.place = place_of(origin, entry.source());
        return setting;
    }
    setting.value = std::move(list);
    return setting;
}

}  // namespace

Result<void> Setting::take(std::string& to) const {
    const auto* text = std::get_if<std::string>(&value);
    if (text == nullptr || text->empty()) return wrong("must be a text in quotes");
    to = *text;
    return {};
}

Result<void> Setting::take(bool& to) const {
    const auto* truth = std::get_if<bool>(&value);
    if (truth == nullptr) return wrong("must be true or false");
    to = *truth;
    return {};
}

Result<void> Setting::take(int64_t low, int64_t high, uint32_t& to) const {
    const auto* number = std::get_if<int64_t>(&value);
    if (number == nullptr || *number < low || *number > high) {
        return wrong(fmt::format("must be a number from {} to {}", low, high));
    }
    to = static_cast<uint32_t>(*number);
    return {};
}

Result<void> Setting::take(std::vector<std::string>& to) const {
    const auto* list = std::get_if<std::vector<std::string>>(&value);
    if (list == nullptr) return wrong("must be a list of texts");
    to = *list;
    return {};
}

Error Setting::wrong(std::string_view what) const { return {EINVAL, fmt::format("{}: {} {}", place, key, what)}; }

Error Setting::unknown() const {
    return wrong(section.empty() ? "is not a setting" : fmt::format("is not a setting of [{}]", section));
}

Result<std::vector<Setting>> parse_settings(const std::string& text, const std::string& origin,
                                            std::initializer_list<std::string_view> sections) {
    const toml::parse_result parsed = toml::parse(text, origin);
    if (!parsed) {
        const toml::parse_error& error = parsed.error();
        return Error{EINVAL, fmt::format("{}: {}", place_of(origin, error.source()), error.description())};
    }
    std::vector<Setting> settings;
    for (const auto& [key, node] : parsed.table()) {
        if (std::find(sections.begin(), sections.end(), key.str()) == sections.end()) {
            settings.push_back(setting_of(origin, "", key.str(), node));
            continue;
        }
        const toml::table* table = node.as_table();
        if (table == nullptr) return setting_of(origin, "", key.str(), node).wrong("must be a table");
        for (const auto& [inner, value] : *table) {
            settings.push_back(setting_of(origin, key.str(), inner.str(), value));
        }
    }
    return settings;
}

Result<std::string> read_settings(const std::string& path, std::string_view default_path) {
    if (path == default_path && ::access(path.c_str(), F_OK) != 0 && errno == ENOENT) return std::string();
    std::ifstream file(path);
    if (!file) return os_error("read configuration " + path);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

}  // namespace ringback
