// SPDX-License-Identifier: Apache-2.0
//
// XenBus: the states two halves of a device walk through (xen/io/xenbus.h), and where their nodes are.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "hypervisor/store.h"

namespace ringback::xen {

enum class XenbusState : uint8_t {
    unknown = 0,  // no node, no directory, or not a state
    initialising = 1,
    init_wait = 2,
    initialised = 3,
    connected = 4,
    closing = 5,
    closed = 6,
    reconfiguring = 7,
    reconfigured = 8,
};

[[nodiscard]] const char* to_string(XenbusState state);
// Anything that is not a state of the protocol reads as unknown.
[[nodiscard]] XenbusState parse_state(const std::optional<std::string>& text);
[[nodiscard]] XenbusState read_state(const Store& store, const std::string& directory);

// backend/<kind>/<frontend domid>/<devid> of the backend's own domain: what names a device everywhere.
struct DeviceId {
    std::string kind;  // vbd, vbd3, qdisk, vif
    Domid domid = 0;   // the frontend's
    uint32_t devid = 0;

    auto operator<=>(const DeviceId&) const = default;
    // "vbd/3/51712", as xl's hotplug scripts see it in XENBUS_PATH after "backend/".
    [[nodiscard]] std::string text() const;
    // The reverse; nullopt for anything else.
    [[nodiscard]] static std::optional<DeviceId> parse(std::string_view text);
};

[[nodiscard]] std::string backend_directory(Domid own, const DeviceId& id);

}  // namespace ringback::xen
