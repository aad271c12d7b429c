// SPDX-License-Identifier: Apache-2.0
//
// The granting side of a grant table, without a call to the core: writing an entry, and taking it back as
// Linux's gnttab_end_foreign_access_ref does. See abi.h for the agreement with those who copy.
#pragma once

#include <algorithm>

#include "hypervisor/embedded/abi.h"

namespace ringback::xen::embedded {

inline void grant(DomainShared* shared, std::uint32_t ref, std::uint16_t domid, std::uint32_t frame,
                  bool readonly) {
    grant_table(shared)[ref].store(
        make_entry(frame, domid, static_cast<std::uint16_t>(kPermitAccess | (readonly ? kReadOnly : 0))),
        std::memory_order_release);
}

inline bool copy_in_progress(DomainShared* shared, std::uint32_t ref) {
    const std::uint32_t high = std::min(shared->copy_slots_high.load(), kCopySlots);
    const std::uint64_t hazard = std::uint64_t{ref} + 1;
    for (std::uint32_t i = 0; i < high; ++i)
        if (shared->slots[i].source.load() == hazard || shared->slots[i].dest.load() == hazard) return true;
    return false;
}

// True if the grant is gone; false if somebody still maps the page or copies from or to it.
inline bool revoke(DomainShared* shared, std::uint32_t ref) {
    GrantEntry& entry = grant_table(shared)[ref];
    std::uint64_t e = entry.load(std::memory_order_acquire);
    if (copy_in_progress(shared, ref)) return false;
    do {
        if ((e & (kReading | kWriting)) != 0) return false;
    } while (!entry.compare_exchange_weak(e, 0, std::memory_order_seq_cst));
    if (!copy_in_progress(shared, ref)) return true;
    entry.store(e, std::memory_order_seq_cst);
    return false;
}

}  // namespace ringback::xen::embedded
