// SPDX-License-Identifier: Apache-2.0
//
// Setting: one line of a configuration file (TOML), and how its value is taken.
//
// A key that does not exist is refused by its name, with its line, and so is a value of the wrong type or out of range: a
// daemon that starts on a mistyped setting would serve guests in a way nobody asked for. Which keys there are is the
// caller's to know.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "runtime/result.h"

namespace ringback {

struct Setting {
    std::string place;    // "/etc/ringback/blkbackd.toml:3"
    std::string section;  // "": none
    std::string key;
    // monostate: of a kind that no setting has.
    std::variant<std::monostate, std::string, bool, int64_t, std::vector<std::string>> value;

    [[nodiscard]] Result<void> take(std::string& to) const;
    [[nodiscard]] Result<void> take(bool& to) const;
    [[nodiscard]] Result<void> take(int64_t low, int64_t high, uint32_t& to) const;
    [[nodiscard]] Result<void> take(std::vector<std::string>& to) const;
    [[nodiscard]] Error wrong(std::string_view what) const;
    [[nodiscard]] Error unknown() const;
};

// `origin` names the text in messages. What is in a table that is none of `sections` is no setting.
[[nodiscard]] Result<std::vector<Setting>> parse_settings(const std::string& text, const std::string& origin,
                                                          std::initializer_list<std::string_view> sections = {});
// The text of a file. An absent one at the default path is an empty one; at any other path it is an error.
[[nodiscard]] Result<std::string> read_settings(const std::string& path, std::string_view default_path);

}  // namespace ringback
