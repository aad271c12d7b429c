// SPDX-License-Identifier: Apache-2.0
//
// What every backend does with the nodes of a device, whatever the device is.
//
// Our own directory is written by the toolstack alone, and names the frontend's; what stands in the frontend's is hostile,
// and is taken whole and in range or not at all.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "hypervisor/store.h"
#include "hypervisor/xenbus.h"
#include "runtime/result.h"

namespace ringback::xen {

// How far a device's rings are.
enum class RingPhase : uint8_t { none, connecting, connected, disconnecting };
[[nodiscard]] const char* to_string(RingPhase phase);

// The frontend's directory that ours names; "" when it is not in the frontend domain's own home.
[[nodiscard]] std::string frontend_directory(const Store& store, const std::string& directory, Domid guest);
// Writes what `more` writes and then the new state, unless the state is not `from` any more (the toolstack was quicker:
// decide again). ENOENT: the directory is gone.
[[nodiscard]] Result<void> publish_state(const Store& store, const std::string& directory, XenbusState from,
                                         XenbusState to, const std::function<void(Store::Update&)>& more);

// A number that the frontend has to write; an error says which node is missing or wrong.
[[nodiscard]] Result<uint64_t> frontend_number(const Store& store, const std::string& path, uint64_t low,
                                               uint64_t high);
[[nodiscard]] Error bad_node(const std::string& path, const std::optional<std::string>& value);

// Whether a driver of the kernel has taken the device.
[[nodiscard]] bool kernel_holds(const std::string& sysfs, const DeviceId& id);

// The journal that its worker writes, in the daemon's directory of journals.
[[nodiscard]] std::string journal_path(const std::string& directory, const DeviceId& id);

}  // namespace ringback::xen
