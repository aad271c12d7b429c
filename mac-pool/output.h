// SPDX-License-Identifier: Apache-2.0
//
// Output: how the commands show what a pool holds, as text for people and as JSON for programs.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "mac-pool/pool.h"

namespace ringback::mac {

// "2026-01-31T23:59:59Z"
[[nodiscard]] std::string time_text(int64_t seconds);
// "24h", "90s", "7d", "15m", or plain seconds.
[[nodiscard]] Result<int64_t> parse_duration(std::string_view text);

[[nodiscard]] nlohmann::json to_json(const Guest& guest);  // null for none
[[nodiscard]] nlohmann::json to_json(const Lease& lease);
[[nodiscard]] nlohmann::json to_json(Mac mac, const Resting& resting);
[[nodiscard]] nlohmann::json to_json(const Settings& settings);
[[nodiscard]] nlohmann::json to_json(const Stats& stats);

[[nodiscard]] std::string line(const Lease& lease);
[[nodiscard]] std::string line(Mac mac, const Resting& resting);

// A document on standard output. What is not UTF-8 in a guest's name is replaced.
void print(const nlohmann::json& document);

}  // namespace ringback::mac
