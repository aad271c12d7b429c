// SPDX-License-Identifier: Apache-2.0
//
// The guest's side of the embedded core, for what Xen's toolstack libraries lack because a guest's kernel
// does it: use the domain's own pages, grant them, take grants back, allocate ports for a backend to bind to.
// Made cheap enough that a load generator can live in one process with a backend: grant_at(), end_access(),
// notify() and clear() make no call to the core; the first two are a few memory accesses, the last two one
// system call each.
//
// Thread: a Guest has one owner, except that page(), grant_at() and end_access() may be called from any
// thread. For more, connect the same domain several times: pages and references are given out by the core and
// never collide.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "hypervisor/embedded/attachment.h"
#include "runtime/result.h"

namespace ringback::xen::embedded {

// One end of an event channel. Closed when it goes; the other end is then unbound again.
class GuestPort {
  public:
    GuestPort() = default;
    GuestPort(GuestPort&&) noexcept = default;
    GuestPort& operator=(GuestPort&& other) noexcept;
    ~GuestPort() { close(); }

    explicit operator bool() const { return core_ != nullptr; }
    std::uint32_t number() const { return number_; }
    // Readable while an event is pending.
    int fd() const { return in_.get(); }
    void notify();
    // Takes the pending event; false if there was none.
    bool clear();
    // Waits for an event and takes it; false if none came in time.
    bool wait(int timeout_ms);
    void close();

  private:
    friend class Guest;
    std::shared_ptr<CoreConnection> core_;
    std::uint32_t number_ = 0;
    std::atomic<std::uint64_t>* counter_ = nullptr;
    Fd in_, out_;
};

class Guest {
  public:
    [[nodiscard]] static Result<Guest> connect(std::uint16_t domid);

    std::uint16_t domid() const { return own_->domid; }
    bool alive() const { return own_->alive(); }
    bool paused() const { return own_->shared()->paused.load(std::memory_order_relaxed) != 0; }

    // Frames are contiguous in memory: page(first) is the start of all of them.
    Result<std::uint32_t> alloc_pages(std::uint32_t count);
    void free_pages(std::uint32_t first, std::uint32_t count);
    char* page(std::uint32_t frame) const { return own_->memory.bytes() + std::size_t{frame} * kPageSize; }
    std::uint32_t frame_of(const void* address) const {
        return static_cast<std::uint32_t>((static_cast<const char*>(address) - own_->memory.bytes()) /
                                          kPageSize);
    }

    // Reserves references; grant_at() then uses them as often as it likes.
    Result<std::vector<std::uint32_t>> alloc_refs(std::uint32_t count);
    void free_refs(const std::vector<std::uint32_t>& refs);
    void grant_at(std::uint32_t ref, std::uint32_t frame, std::uint16_t to, bool readonly) const;
    // True if the grant is gone; false if the other side still has it mapped or is copying: it stays granted.
    bool end_access(std::uint32_t ref) const;
    // Reserves one reference and grants.
    Result<std::uint32_t> grant(std::uint32_t frame, std::uint16_t to, bool readonly = false);

    Result<GuestPort> alloc_unbound_port(std::uint16_t remote);
    Result<GuestPort> bind_interdomain(std::uint16_t remote, std::uint32_t remote_port);

    // Memory reservation. EBUSY: the page is mapped by somebody. ENOMEM: above the domain's maximum, or the
    // host's.
    Result<std::uint32_t> populate(std::uint32_t pages);
    Result<std::uint32_t> decrease(std::uint32_t pages);
    Result<std::uint32_t> balloon_out(std::uint32_t frame);
    // What a balloon driver does on a change of memory/target: goes there as far as it can. Returns the pages
    // it has.
    Result<std::uint32_t> follow_memory_target(std::uint64_t target_kib);

    Result<void> set_vcpu(std::uint32_t vcpu, bool online);
    Result<void> shutdown(ShutdownReason reason);

  private:
    Result<GuestPort> bind(Op op, std::uint16_t remote, std::uint32_t remote_port);
    Result<std::uint32_t> reservation(Op op, std::int64_t pages);

    std::shared_ptr<CoreConnection> core_;
    std::unique_ptr<Attachment> own_;
};

}  // namespace ringback::xen::embedded
