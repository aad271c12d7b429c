// SPDX-License-Identifier: Apache-2.0
//
// FakeXen: a guest's memory, and Xen's grant and event channel libraries on it, in this process and without system calls.
//
// The targets define the functions of libxengnttab and libxenevtchn themselves, so the engines under test are the
// product's, unchanged, down to the library's call. The embedded core is not used: it is another process.
//
// The guest has kPages pages, granted under the references 1 to kPages; those above kReadOnlyFrom read-only. Each page has a
// page around it that nobody may touch, wherever it is mapped, so that a step over its edge ends the process; and so it is
// with a ring of several pages. Every mapping has to be given back once, as it was made (INVARIANT).
//
// on_copy, when set, is called before each grant copy: the moment at which a guest changes what was already looked at.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "hypervisor/grants.h"

namespace ringback::fuzz {

inline constexpr uint32_t kPages = 64;
inline constexpr uint32_t kReadOnlyFrom = 57;
inline constexpr xen::Domid kGuest = 7;

class FakeXen {
  public:
    static FakeXen& get();

    // All pages zero, no hook; nothing is mapped or bound (INVARIANT).
    void reset();
    // As the guest sees it.
    [[nodiscard]] std::span<std::byte> page(xen::GrantRef ref);
    [[nodiscard]] static bool granted(xen::GrantRef ref) { return ref >= 1 && ref <= kPages; }
    [[nodiscard]] size_t mapped() const;
    [[nodiscard]] size_t bound() const;

    std::function<void()> on_copy;
    // What a reference means, where it is another guest's; 0: nothing.
    std::function<xen::GrantRef(xen::GrantRef)> translate;
    uint64_t notified = 0;
};

}  // namespace ringback::fuzz
