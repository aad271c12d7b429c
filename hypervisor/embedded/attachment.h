// SPDX-License-Identifier: Apache-2.0
//
// A client's view of one domain: its memory and its shared page, mapped once and kept until the domain dies.
// Used by the drop-in grant library and by the guest API.
#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "hypervisor/embedded/connection.h"

namespace ringback::xen::embedded {

struct Attachment {
    std::uint16_t domid = 0;
    std::uint32_t frames = 0;
    Fd memory_fd;
    Mapped memory;
    Mapped shared_page;
    int slot = -1;

    DomainShared* shared() const { return shared_page.as<DomainShared>(); }
    CopySlot& copy_slot() const { return shared()->slots[slot]; }
    bool alive() const {
        return shared()->state.load(std::memory_order_acquire) ==
               static_cast<std::uint32_t>(DomainState::alive);
    }
    // Attaches `domid` over `core`; null and an errno in `error` if that fails.
    static std::unique_ptr<Attachment> make(CoreConnection& core, std::uint16_t domid, int& error);
};

// All domains a handle has met. Not thread-safe: its handle's lock covers it.
class Attachments {
  public:
    // Null if the domain is dead or unknown; then `error` has an errno.
    // What it returns lives until the next sweep().
    Attachment* get(CoreConnection& core, std::uint16_t domid, int& error);
    // Lets go of dead domains that get() has come across.
    void sweep() { dead_.clear(); }

  private:
    std::map<std::uint16_t, std::unique_ptr<Attachment>> known_;
    std::vector<std::unique_ptr<Attachment>> dead_;
};

}  // namespace ringback::xen::embedded
