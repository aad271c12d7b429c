// SPDX-License-Identifier: Apache-2.0
#include "hypervisor/backend.h"

#include <fmt/format.h>
#include <unistd.h>

namespace ringback::xen {

namespace {

// What the store takes in a path (a NUL would end it for the library, and leave another path).
constexpr std::string_view kPathCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-/_@";

}  // namespace

const char* to_string(RingPhase phase) {
    switch (phase) {
        case RingPhase::none: return "none";
        case RingPhase::connecting: return "connecting";
        case RingPhase::connected: return "connected";
        case RingPhase::disconnecting: return "disconnecting";
    }
    return "none";
}

std::string frontend_directory(const Store& store, const std::string& directory, Domid guest) {
    const std::string frontend = store.read(directory + "/frontend").value_or("");
    const bool own = frontend.starts_with(fmt::format("/local/domain/{}/", guest)) &&
                     frontend.find_first_not_of(kPathCharacters) == std::string::npos &&
                     store.read_number(directory + "/frontend-id") == guest;
    return own ? frontend : "";
}

Result<void> publish_state(const Store& store, const std::string& directory, XenbusState from, XenbusState to,
                           const std::function<void(Store::Update&)>& more) {
    return store.update(directory, [&](Store::Update& update) {
        if (parse_state(update.read("state")) != from) return false;
        more(update);
        update.write("state", static_cast<uint64_t>(to));
        return true;
    });
}

Error bad_node(const std::string& path, const std::optional<std::string>& value) {
    if (!value) return {EPROTO, fmt::format("the frontend has not written {}", path)};
    return {EPROTO, fmt::format("the frontend wrote \"{}\" to {}", value->substr(0, 40), path)};
}

Result<uint64_t> frontend_number(const Store& store, const std::string& path, uint64_t low, uint64_t high) {
    const auto text = store.read(path);
    const auto number = text ? parse_number(*text, low, high) : std::nullopt;
    if (!number) return bad_node(path, text);
    return *number;
}

bool kernel_holds(const std::string& sysfs, const DeviceId& id) {
    const std::string driver =
        fmt::format("{}/bus/xen-backend/devices/{}-{}-{}/driver", sysfs, id.kind, id.domid, id.devid);
    return ::access(driver.c_str(), F_OK) == 0;
}

std::string journal_path(const std::string& directory, const DeviceId& id) {
    return fmt::format("{}/{}-{}-{}.journal", directory, id.domid, id.kind, id.devid);
}

}  // namespace ringback::xen
