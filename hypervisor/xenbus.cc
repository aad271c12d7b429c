// SPDX-License-Identifier: Apache-2.0
#include "hypervisor/xenbus.h"

#include <fmt/format.h>

namespace ringback::xen {

const char* to_string(XenbusState state) {
    switch (state) {
        case XenbusState::unknown: return "Unknown";
        case XenbusState::initialising: return "Initialising";
        case XenbusState::init_wait: return "InitWait";
        case XenbusState::initialised: return "Initialised";
        case XenbusState::connected: return "Connected";
        case XenbusState::closing: return "Closing";
        case XenbusState::closed: return "Closed";
        case XenbusState::reconfiguring: return "Reconfiguring";
        case XenbusState::reconfigured: return "Reconfigured";
    }
    return "Unknown";
}

XenbusState parse_state(const std::optional<std::string>& text) {
    if (!text) return XenbusState::unknown;
    return static_cast<XenbusState>(parse_number(*text, 0, 8).value_or(0));
}

XenbusState read_state(const Store& store, const std::string& directory) {
    return parse_state(store.read(directory + "/state"));
}

std::string DeviceId::text() const { return fmt::format("{}/{}/{}", kind, domid, devid); }

std::optional<DeviceId> DeviceId::parse(std::string_view text) {
    const size_t first = text.find('/');
    if (first == std::string_view::npos || first == 0) return std::nullopt;
    const size_t second = text.find('/', first + 1);
    if (second == std::string_view::npos) return std::nullopt;
    const auto domid = parse_number(text.substr(first + 1, second - first - 1), 0, 0x7fef);
    const auto devid = parse_number(text.substr(second + 1), 0, UINT32_MAX);
    if (!domid || !devid) return std::nullopt;
    return DeviceId{std::string(text.substr(0, first)), static_cast<Domid>(*domid), static_cast<uint32_t>(*devid)};
}

std::string backend_directory(Domid own, const DeviceId& id) {
    return fmt::format("/local/domain/{}/backend/{}", own, id.text());
}

}  // namespace ringback::xen
