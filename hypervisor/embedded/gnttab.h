// SPDX-License-Identifier: Apache-2.0
//
// What a handle of the drop-in libxengnttab is inside. See gnttab.cc.
#pragma once

extern "C" {
#include <xengnttab.h>
}

#include <cstdint>
#include <map>
#include <mutex>

#include "hypervisor/embedded/attachment.h"

namespace ringback::xen::embedded {

class GrantHandle {
  public:
    ~GrantHandle();

    int open() { return core_.open(CoreConnection::default_domid()); }
    int fd() const { return core_.fd(); }
    // As the functions of xengnttab.h: null or -1 and errno on failure.
    void* map(std::uint32_t count, const GrantName* names, int prot, std::int64_t notify_byte,
              std::int64_t notify_port);
    int unmap(void* address, std::uint32_t count);
    int copy(std::uint32_t count, xengnttab_grant_copy_segment_t* segments);

  private:
    class CopyEnd;
    struct Map {
        std::int64_t id;
        std::uint32_t count;
    };

    CoreConnection core_;
    std::mutex mutex_;
    Attachments attachments_;
    std::map<char*, Map> maps_;
};

}  // namespace ringback::xen::embedded
