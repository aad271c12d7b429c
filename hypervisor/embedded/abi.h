// SPDX-License-Identifier: Apache-2.0
//
// What the embedded core and its clients (the drop-in libraries, the guest API, corectl) share: the messages
// on the hypercall sockets and the layout of a domain's shared memory. Both ends come from the same build, so
// there is no versioning beyond one number checked when a client says hello.
//
// A domain has two memory files. `memory` holds its pages: frame n lives at n * 4096. `shared` starts with a
// DomainShared header, then the grant table (8 bytes an entry, as Xen's version 1), then one byte a frame
// that says whether the frame is populated.
//
// Why copies need no lock and no call: whoever copies first publishes the reference in its CopySlot (a
// hazard), then reads the entry. Whoever takes a grant or a page away first changes the entry, then reads all
// hazards. Both sides are sequentially consistent, so at least one of them sees the other. A copier that is
// killed leaves a hazard behind; the core clears it when the client's socket closes. A lock would have been
// held by a dead or stopped process.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace ringback::xen::embedded {

inline constexpr std::uint32_t kAbiVersion = 1;
inline constexpr std::uint32_t kPageSize = 4096;
inline constexpr std::uint32_t kGrantEntries =
    32768;  // 64 frames of 512 entries: Xen's default gnttab_max_frames
inline constexpr std::uint32_t kReservedRefs = 8;  // Xen keeps the first entries for console and store
inline constexpr std::uint32_t kCopySlots = 128;
inline constexpr std::uint32_t kMaxMessage = 200 * 1024;  // below the default socket buffer
inline constexpr std::uint32_t kMaxBatch = 16384;         // grants in one map call
inline constexpr std::uint32_t kMaxPortsPerDomain = 4096;
inline constexpr std::uint32_t kNotifyCounters = 496;
inline constexpr std::uint16_t kDomidSelf = 0x7FF0;
inline constexpr std::uint16_t kFirstReservedDomid = 0x7FF0;

enum class Op : std::uint32_t {
    hello = 1,
    attach_domain,  // args: domid -> values: slot, pages; fds: memory, shared
    detach_domain,  // args: domid
    map_grants,     // args: count, writable; payload: GrantName[count] -> values: mapping; payload: u32
                    // frame[count]
    unmap,          // args: mapping
    unmap_notify,   // args: mapping, byte offset or -1, port or -1
    page_notify,    // args: own frame, byte offset or -1, port or -1: done when called with -1 and -1, or at
                    // death
    alloc_pages,    // args: count -> values: first frame
    free_pages,     // args: first frame, count
    alloc_refs,     // args: count -> payload: u32 ref[count]
    free_refs,      // payload: u32 ref[]
    populate,       // args: pages -> values: current pages
    decrease,       // args: pages (taken from the free ones), or frame list in the payload -> values: current
    alloc_unbound,  // args: remote domid -> values: port; fds: in, out
    bind_interdomain,  // args: remote domid, remote port -> values: port, counter; fds: in, out
    close_port,        // args: port
    restrict_evtchn,   // args: domid
    vcpu_set,          // args: domid, vcpu, online
    shutdown,          // args: domid, reason
    resume,            // args: domid
    pause,             // args: domid, paused
    create_domain,     // payload: JSON -> values: domid
    destroy_domain,    // args: domid
    rename_domain,     // args: domid; payload: name
    set_max_pages,     // args: domid, pages
    domain_info,       // args: domid -> payload: JSON
    list_domains,      // -> payload: JSON
    counters,          // -> payload: JSON
    inject,            // payload: JSON -> payload: JSON
    count_             // not an operation
};

struct Request {
    std::uint32_t op;
    std::uint32_t length;  // bytes of payload behind this header
    std::int64_t args[4];
};
static_assert(sizeof(Request) == 40);

struct Reply {
    std::int32_t error;  // 0 or an errno
    std::uint32_t length;
    std::int64_t values[4];
};
static_assert(sizeof(Reply) == 40);

struct GrantName {
    std::uint32_t domid;
    std::uint32_t ref;
};
static_assert(sizeof(GrantName) == 8);

// Reasons as in Xen's sched.h.
enum class ShutdownReason : std::uint32_t { poweroff = 0, reboot = 1, suspend = 2, crash = 3, none = 0xff };

enum class DomainState : std::uint32_t { alive = 1, dying = 2 };

// One per (client, domain) pair that copies. Written by that client only, read and at the end summed by the
// core.
struct alignas(64) CopySlot {
    std::atomic<std::uint64_t> source;  // reference + 1 while it is being copied from, else 0
    std::atomic<std::uint64_t> dest;
    std::atomic<std::uint64_t> calls;
    std::atomic<std::uint64_t> copies;
    std::atomic<std::uint64_t> failures;
    std::atomic<std::uint64_t> bytes;
};
static_assert(sizeof(CopySlot) == 64);

struct DomainShared {
    std::uint32_t abi;
    std::uint32_t domid;
    std::uint32_t max_frames;
    std::uint32_t grant_entries;
    std::atomic<std::uint32_t> state;  // DomainState
    std::atomic<std::uint32_t> paused;
    std::atomic<std::uint32_t> copy_slots_high;  // slots at and above this were never used
    std::uint32_t reserved;
    std::atomic<std::uint64_t> copy_fault;  // low 32: copies still to fail; bits 32-47: status as u16
    alignas(64) CopySlot slots[kCopySlots];
};

// A grant entry is one 64-bit word, so that flags, domid and frame are always read together:
// bits 0-15 flags (GTF_*), 16-31 domid, 32-63 frame.
using GrantEntry = std::atomic<std::uint64_t>;
static_assert(GrantEntry::is_always_lock_free && sizeof(GrantEntry) == 8);

inline constexpr std::uint64_t kPermitAccess = 1;
inline constexpr std::uint64_t kReadOnly = 1u << 2;
inline constexpr std::uint64_t kReading = 1u << 3;
inline constexpr std::uint64_t kWriting = 1u << 4;
inline constexpr std::uint64_t kTypeMask = 3;

constexpr std::uint64_t make_entry(std::uint32_t frame, std::uint16_t domid, std::uint16_t flags) {
    return std::uint64_t{flags} | (std::uint64_t{domid} << 16) | (std::uint64_t{frame} << 32);
}
constexpr std::uint16_t entry_flags(std::uint64_t e) {
    return static_cast<std::uint16_t>(e);
}
constexpr std::uint16_t entry_domid(std::uint64_t e) {
    return static_cast<std::uint16_t>(e >> 16);
}
constexpr std::uint32_t entry_frame(std::uint64_t e) {
    return static_cast<std::uint32_t>(e >> 32);
}

constexpr std::size_t round_to_page(std::size_t n) {
    return (n + kPageSize - 1) / kPageSize * kPageSize;
}
inline constexpr std::size_t kGrantTableOffset = round_to_page(sizeof(DomainShared));
inline constexpr std::size_t kPopulatedOffset = kGrantTableOffset + kGrantEntries * sizeof(GrantEntry);
constexpr std::size_t shared_size(std::uint32_t frames) {
    return round_to_page(kPopulatedOffset + frames);
}

inline GrantEntry* grant_table(DomainShared* shared) {
    return reinterpret_cast<GrantEntry*>(reinterpret_cast<char*>(shared) + kGrantTableOffset);
}
inline std::atomic<std::uint8_t>* populated_map(DomainShared* shared) {
    return reinterpret_cast<std::atomic<std::uint8_t>*>(reinterpret_cast<char*>(shared) + kPopulatedOffset);
}

// One page per client, received with hello: how often it notified through each of its ports.
struct ClientShared {
    std::atomic<std::uint64_t> notifies[kNotifyCounters];
};
static_assert(sizeof(ClientShared) <= kPageSize);

}  // namespace ringback::xen::embedded
