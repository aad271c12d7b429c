// SPDX-License-Identifier: Apache-2.0
//
// Tap: a TAP network device with vnet headers and several queues, for a guest's virtual NIC.
//
// The device is persistent: a bridge port must not go away because a process does. It is therefore removed on purpose
// (remove(), through link.h), and one that an ended process has left is taken over by its name. The name is only used to
// open: a hotplug script may rename the device (vifname=), so afterwards it is known by its descriptors and its index.
//
// It comes into being without carrier, as a guest's NIC has none before its frontend is connected.
//
// Thread: one owner. Needs CAP_NET_ADMIN.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bridge/link.h"
#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace ringback::bridge {

// What the guest's side can take from the host unfinished.
struct Offloads {
    bool checksum = false;
    bool tcp4 = false;  // with checksum only
    bool tcp6 = false;
    bool operator==(const Offloads&) const = default;
};

class Tap {
  public:
    // Creates the device, or takes over the persistent TAP of that name. One queue is open then.
    [[nodiscard]] static Result<Tap> open(const std::string& name);
    // Around the queues of a TAP that another process has opened.
    [[nodiscard]] static Result<Tap> adopt(std::vector<UniqueFd> queues);
    Tap(Tap&&) noexcept = default;
    Tap& operator=(Tap&&) noexcept = default;

    // Opens or closes queues until there are `count`, at least one.
    [[nodiscard]] Result<void> set_queues(size_t count);
    [[nodiscard]] const std::vector<UniqueFd>& queues() const { return queues_; }
    [[nodiscard]] Result<void> set_offloads(const Offloads& offloads);
    [[nodiscard]] Result<void> set_carrier(bool on);
    // The name it has now.
    [[nodiscard]] Result<std::string> name() const;
    [[nodiscard]] unsigned index() const { return index_; }
    // The device goes, whoever has its queues open.
    [[nodiscard]] Result<void> remove(Links& links);

  private:
    Tap() = default;
    [[nodiscard]] static Result<UniqueFd> open_queue(const std::string& name);
    [[nodiscard]] Result<void> find_index();
    std::vector<UniqueFd> queues_;
    unsigned index_ = 0;
};

}  // namespace ringback::bridge
