// SPDX-License-Identifier: Apache-2.0
//
// DeviceWatch: which devices of this domain's backends are to be looked at.
//
// Watch events are not handled, they only mark a device: whatever a guest does to its nodes, it costs one look per turn of
// the loop, and no event can be missed, doubled or taken in the wrong order.
//
// Thread: the supervisor's.
#pragma once

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "hypervisor/store.h"
#include "hypervisor/xenbus.h"
#include "runtime/result.h"

namespace ringback::xen {

class DeviceWatch {
  public:
    explicit DeviceWatch(const Store& store) : store_(store) {}

    // From now on; what is there already is marked.
    [[nodiscard]] Result<void> start(Domid own, std::vector<std::string> kinds);
    [[nodiscard]] bool covers(const std::string& kind) const;

    // True: any device may have changed. Watches of single devices have the device's text as their token.
    [[nodiscard]] bool take_events();
    void mark(const DeviceId& id) { marked_.insert(id); }
    [[nodiscard]] const std::set<DeviceId>& marked() const { return marked_; }
    // The marked ones, which are no longer.
    [[nodiscard]] std::set<DeviceId> take() { return std::exchange(marked_, {}); }

  private:
    void scan(const std::string& kind);
    [[nodiscard]] bool take_path(const std::string& path);

    const Store& store_;
    std::string root_;  // /local/domain/<own>/backend/
    std::vector<std::string> kinds_;
    std::set<DeviceId> marked_;
};

}  // namespace ringback::xen
