// SPDX-License-Identifier: Apache-2.0
//
// Grants: guest pages, mapped or copied, over libxengnttab.
//
// Copy is the rule and mapping the exception. An unmap through gntdev takes effect some time after the call whenever
// the page is still referenced by I/O, and nothing tells when; a frontend that is answered while its page is still
// mapped gives the whole disk up. So data of ordinary grants is copied, and mapped are only pages that stay: rings and
// persistent grants.
//
// Thread: one owner per GrantTable. copy() makes one system call a batch and never allocates.
#pragma once

extern "C" {
#include <xengnttab.h>
}

#include <cstddef>
#include <cstdint>
#include <span>

#include "hypervisor/store.h"
#include "runtime/result.h"

namespace ringback::xen {

using GrantRef = uint32_t;
inline constexpr size_t kPageSize = 4096;

using CopySegment = xengnttab_grant_copy_segment_t;

class GrantTable;

// Pages mapped from grants, contiguous in our memory, in the order of the references. Unmapped on destruction; the
// GrantTable that made it must still exist then.
class GrantMapping {
  public:
    GrantMapping() = default;
    GrantMapping(GrantMapping&& other) noexcept;
    GrantMapping& operator=(GrantMapping&& other) noexcept;
    ~GrantMapping() { unmap(); }

    void unmap();
    [[nodiscard]] std::byte* data() const { return address_; }
    [[nodiscard]] size_t size() const { return pages_ * kPageSize; }
    explicit operator bool() const { return address_ != nullptr; }

  private:
    friend class GrantTable;
    GrantMapping(xengnttab_handle* handle, std::byte* address, size_t pages)
        : handle_(handle), address_(address), pages_(pages) {}
    xengnttab_handle* handle_ = nullptr;
    std::byte* address_ = nullptr;
    size_t pages_ = 0;
};

struct GrantCounters {
    uint64_t copy_calls = 0;
    uint64_t copied_segments = 0;
    uint64_t maps = 0;    // pages
    uint64_t unmaps = 0;  // pages
    uint64_t failed = 0;  // segments refused, pages not mapped
};

class GrantTable {
  public:
    [[nodiscard]] static Result<GrantTable> open();
    GrantTable(GrantTable&& other) noexcept;
    GrantTable& operator=(GrantTable&& other) noexcept;
    ~GrantTable();

    // All or nothing: one bad reference fails the call.
    [[nodiscard]] Result<GrantMapping> map(Domid domid, std::span<const GrantRef> refs, bool writable);
    // One page, for the data path: null when the grant cannot be mapped.
    [[nodiscard]] std::byte* map_page(Domid domid, GrantRef ref, bool writable);
    void unmap_page(std::byte* page);

    // Runs all segments; each one's status (GNTST_okay is 0) is in the segment. False: the call itself failed, no
    // status is valid and none may be taken as success.
    [[nodiscard]] bool copy(std::span<CopySegment> segments);

    [[nodiscard]] const GrantCounters& counters() const { return counters_; }

  private:
    explicit GrantTable(xengnttab_handle* handle) : handle_(handle) {}
    xengnttab_handle* handle_ = nullptr;
    GrantCounters counters_;
};

}  // namespace ringback::xen
