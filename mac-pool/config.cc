// SPDX-License-Identifier: Apache-2.0
#include "mac-pool/config.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/settings.h"
#include "runtime/unique_fd.h"

namespace ringback::mac {

namespace {

// Every setting of the text goes where `take` says for its key, nullptr for none.
template <typename Take>
Result<void> each_text(const std::string& text, const std::string& origin, const Take& take) {
    const std::vector<Setting> settings = TRY(parse_settings(text, origin));
    for (const Setting& setting : settings) {
        std::string* to = take(setting.key);
        if (to == nullptr) return setting.unknown();
        TRY(setting.take(*to));
    }
    return {};
}

// Judged by the descriptor that is then read.
Result<UniqueFd> open_private(const std::string& path) {
    UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file) return os_error("open " + path);
    struct stat status {};
    if (::fstat(file.get(), &status) != 0) return os_error("look at " + path);
    if ((status.st_mode & 077) != 0) {
        return Error{EACCES,
                     fmt::format("{} may be read by others than its owner; chmod 600 {}", path, path)};
    }
    if (status.st_uid != ::geteuid() && status.st_uid != 0) {
        return Error{EACCES, fmt::format("{} belongs to another user", path)};
    }
    return file;
}

Result<std::string> read_private(const std::string& path) {
    const UniqueFd file = TRY(open_private(path));
    std::string text;
    char buffer[4096];
    while (true) {
        const ssize_t got = ::read(file.get(), buffer, sizeof buffer);
        if (got < 0) return os_error("read " + path);
        if (got == 0) return text;
        text.append(buffer, static_cast<size_t>(got));
    }
}

bool absent(const std::string& path) {
    return ::access(path.c_str(), F_OK) != 0 && errno == ENOENT;
}

}  // namespace

Result<Config> parse_config(const std::string& text, const std::string& origin) {
    Config config;
    TRY(each_text(text, origin, [&](std::string_view key) -> std::string* {
        if (key == "pool") return &config.url;
        if (key == "credentials") return &config.credentials;
        return nullptr;
    }));
    return config;
}

Result<Config> load_config(const std::string& path) {
    return parse_config(TRY(read_settings(path, kConfigPath)), path);
}

Result<Location> locate(const Config& config) {
    Location location;
    location.url = config.url;
    if (config.url.starts_with("sqlite:")) return location;
    if (config.credentials == kCredentialsPath && absent(config.credentials)) return location;
    const std::string text = TRY(read_private(config.credentials));
    TRY(each_text(text, config.credentials, [&](std::string_view key) -> std::string* {
        if (key == "user") return &location.user;
        if (key == "password") return &location.password;
        if (key == "ca_file") return &location.ca_file;
        if (key == "cert_file") return &location.cert_file;
        if (key == "key_file") return &location.key_file;
        return nullptr;
    }));
    if (location.user.empty() != location.password.empty()) {
        return Error{EINVAL, config.credentials + ": user and password come together"};
    }
    if (location.cert_file.empty() != location.key_file.empty()) {
        return Error{EINVAL, config.credentials + ": cert_file and key_file come together"};
    }
    if (!location.key_file.empty()) (void)TRY(open_private(location.key_file));
    return location;
}

}  // namespace ringback::mac
