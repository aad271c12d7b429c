// SPDX-License-Identifier: Apache-2.0
//
// One domain as the core sees it: memory, grant table with its active entries, vCPUs. The grant entries
// themselves are shared with the guest and hostile: an entry is loaded once as one word, checked, and pinned
// by compare-and-swap; what was granted at the first pin is kept here (`active_`) and used until the last
// unpin, whatever the guest writes in between (Xen: grant_table.c, struct active_grant_entry).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "hypervisor/embedded/abi.h"
#include "hypervisor/embedded/fd.h"

namespace ringback::xen::embedded {

// Grant table status codes (Xen: public/grant_table.h).
enum class GrantStatus : std::int16_t {
    okay = 0,
    general_error = -1,
    bad_domain = -2,
    bad_ref = -3,
    no_space = -13,
    bad_page = -9,
};

struct Counters {
    std::uint64_t hypercalls = 0;
    std::uint64_t maps = 0;  // pages mapped from this domain
    std::uint64_t map_failures = 0;
    std::uint64_t unmaps = 0;
    std::uint64_t copy_calls = 0;
    std::uint64_t copies = 0;
    std::uint64_t copy_failures = 0;
    std::uint64_t copy_bytes = 0;
    std::uint64_t notifies_received = 0;
    std::uint64_t notifies_sent = 0;
};

struct DomainConfig {
    std::string name;
    std::string uuid;
    std::string type = "pvh";
    std::uint32_t max_pages = 0;
    std::uint32_t pages = 0;  // populated at the start
    std::uint32_t max_vcpus = 1;
    std::uint32_t vcpus = 1;  // online at the start
};

class Domain {
  public:
    // Returns null and sets errno if the memory cannot be had.
    static std::unique_ptr<Domain> create(std::uint16_t id, const DomainConfig& config);

    // Memory. All return 0 or an errno.
    int populate(std::uint32_t pages);
    int decrease(std::uint32_t pages);
    int decrease_frame(std::uint32_t frame);
    int set_max_pages(std::uint32_t pages);
    int alloc_pages(std::uint32_t count, std::uint32_t& first);
    int free_pages(std::uint32_t first, std::uint32_t count);
    // At destruction: everything goes but the pages somebody still maps.
    void release_unpinned_memory();

    // Grants.
    bool alloc_refs(std::uint32_t count, std::vector<std::uint32_t>& refs);
    void free_refs(const std::uint32_t* refs, std::size_t count);
    GrantStatus pin(std::uint32_t ref, std::uint16_t caller, bool writable, std::uint32_t& frame);
    void unpin(std::uint32_t ref, bool writable);
    std::uint64_t pinned() const { return total_pins_; }
    std::uint32_t granted() const;
    bool copy_in_progress() const;

    // Copy slots: one per client that copies from this domain. -1 if none is free.
    int take_slot();
    void return_slot(int slot);

    DomainShared* shared() const { return shared_.as<DomainShared>(); }
    int memory_fd() const { return memory_fd_.get(); }
    int shared_fd() const { return shared_fd_.get(); }
    char* memory() const { return memory_.bytes(); }
    bool dying() const { return dying_; }
    void set_dying();

    const std::uint16_t id;
    std::string name;
    std::string uuid;
    std::string type;
    std::uint32_t max_pages = 0;
    std::uint32_t pages = 0;
    std::uint32_t allocated = 0;
    std::vector<bool> vcpu_online;
    ShutdownReason shutdown = ShutdownReason::none;
    bool paused = false;
    Counters counters;

  private:
    struct Active {
        std::uint32_t frame = 0;
        std::uint16_t readers = 0;
        std::uint16_t writers = 0;
    };

    explicit Domain(std::uint16_t domid) : id(domid) {}
    bool populated(std::uint32_t frame) const;
    bool hazard_on_frame(std::uint32_t frame) const;
    void punch(std::uint32_t frame);

    Fd memory_fd_, shared_fd_;
    Mapped memory_, shared_;
    std::uint32_t frames_ = 0;  // size of the memory file: the maximum at creation
    std::vector<bool> in_use_;  // given out by alloc_pages
    std::uint32_t next_frame_ = 1;
    std::vector<bool> ref_used_;
    std::uint32_t next_ref_ = kReservedRefs;
    std::unordered_map<std::uint32_t, Active> active_;
    std::unordered_map<std::uint32_t, std::uint32_t> frame_pins_;
    std::uint64_t total_pins_ = 0;
    std::vector<bool> slot_used_;
    bool dying_ = false;
};

}  // namespace ringback::xen::embedded
