// SPDX-License-Identifier: Apache-2.0
//
// Config: which pool this host uses, from /etc/ringback/macpool.toml, and how to be let in, from a file of
// its own that only its owner may read.
//
// As elsewhere a key that is not known is refused with its line. So is a credentials file, or a private key,
// that others can read: a password that leaked is not noticed, a refused start is.
#pragma once

#include <string>

#include "mac-pool/store.h"

namespace ringback::mac {

inline constexpr const char* kConfigPath = "/etc/ringback/macpool.toml";
inline constexpr const char* kCredentialsPath = "/etc/ringback/macpool.credentials";
inline constexpr const char* kDefaultUrl = "sqlite:/var/lib/ringback/macpool.db";

struct Config {
    std::string url = kDefaultUrl;
    std::string credentials = kCredentialsPath;
};

// `origin` names the text in messages.
[[nodiscard]] Result<Config> parse_config(const std::string& text, const std::string& origin);
// An absent file at the default path is an empty one; at any other path it is an error.
[[nodiscard]] Result<Config> load_config(const std::string& path);
// The pool, with the credentials if it is one that wants them. An absent file at the default path means none.
[[nodiscard]] Result<Location> locate(const Config& config);

}  // namespace ringback::mac
