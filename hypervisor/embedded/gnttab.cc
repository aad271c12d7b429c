// SPDX-License-Identifier: Apache-2.0
//
// Drop-in libxengnttab.so.1: Xen's ABI (xengnttab.h) over the embedded core, with the manners of Linux's
// gntdev: a batch is mapped as a whole or not at all, at one contiguous address; an unmap must name what one
// map call returned; a copy segment that leaves its page fails the call with EINVAL, while what the
// hypervisor refuses is a status in the segment.
//
// Mapping is a call to the core, copying is not: see abi.h for why that is safe. A handle may be used by
// several threads; copies of one handle then wait for each other, so a thread that copies a lot has a handle
// of its own.
#include "hypervisor/embedded/gnttab.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace rx = ringback::xen::embedded;

namespace ringback::xen::embedded {

void* GrantHandle::map(std::uint32_t count, const GrantName* names, int prot, std::int64_t notify_byte,
                       std::int64_t notify_port) {
    if (count == 0 || count > kMaxBatch) {
        errno = EINVAL;
        return nullptr;
    }
    std::lock_guard lock(mutex_);
    attachments_.sweep();
    std::vector<const Attachment*> sources(count);
    for (std::uint32_t i = 0; i < count; ++i) {
        int error = 0;
        if (names[i].domid >= kFirstReservedDomid) error = EINVAL;
        if (error == 0)
            sources[i] = attachments_.get(core_, static_cast<std::uint16_t>(names[i].domid), error);
        if (error != 0) {
            errno = error == ESRCH ? EINVAL : error;
            return nullptr;
        }
    }
    const bool writable = (prot & PROT_WRITE) != 0;
    CallResult result = core_.call(Op::map_grants, {count, writable}, names, count * sizeof(GrantName));
    if (result.error != 0) {
        errno = result.error;
        return nullptr;
    }
    const std::int64_t id = result.values[0];
    const std::size_t size = std::size_t{count} * kPageSize;
    char* base = static_cast<char*>(
        ::mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    int error = base == MAP_FAILED ? errno : 0;
    const std::uint32_t* frames = result.items<std::uint32_t>();
    for (std::uint32_t i = 0; error == 0 && i < count;) {
        // Neighbouring frames make one piece.
        std::uint32_t run = 1;
        while (i + run < count && sources[i + run] == sources[i] && frames[i + run] == frames[i] + run)
            ++run;
        void* piece = ::mmap(base + std::size_t{i} * kPageSize, std::size_t{run} * kPageSize,
                             PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED | MAP_FIXED,
                             sources[i]->memory_fd.get(), static_cast<off_t>(frames[i]) * kPageSize);
        if (piece == MAP_FAILED) error = errno;
        i += run;
    }
    if (error == 0 && (notify_byte >= 0 || notify_port >= 0))
        error = core_.call(Op::unmap_notify, {id, notify_byte, notify_port}).error;
    if (error != 0) {
        if (base != MAP_FAILED) ::munmap(base, size);
        core_.call(Op::unmap, {id});
        errno = error;
        return nullptr;
    }
    maps_[base] = {id, count};
    return base;
}

int GrantHandle::unmap(void* address, std::uint32_t count) {
    std::lock_guard lock(mutex_);
    auto found = maps_.find(static_cast<char*>(address));
    if (found == maps_.end() || found->second.count != count) {
        errno = found == maps_.end() ? ENOENT : EINVAL;
        return -1;
    }
    ::munmap(address, std::size_t{count} * kPageSize);
    const std::int64_t id = found->second.id;
    maps_.erase(found);
    if (int error = core_.call(Op::unmap, {id}).error; error != 0) {
        errno = error;
        return -1;
    }
    return 0;
}

GrantHandle::~GrantHandle() {
    for (const auto& [address, map] : maps_)
        ::munmap(address, std::size_t{map.count} * kPageSize);
}

// One end of a copy that is a grant: publishes the hazard, checks the entry, and gives the address. The
// hazard stays until end() or the next begin().
class GrantHandle::CopyEnd {
  public:
    explicit CopyEnd(std::atomic<std::uint64_t> CopySlot::*hazard) : hazard_(hazard) {}
    ~CopyEnd() { end(); }

    std::int16_t begin(GrantHandle& handle, const xengnttab_grant_copy_segment::xengnttab_copy_ptr& ptr,
                       bool write, char*& address) {
        const std::uint16_t domid = ptr.foreign.domid;
        if (attachment_ == nullptr || attachment_->domid != domid || !attachment_->alive()) {
            end();
            int error = 0;
            attachment_ =
                domid >= kFirstReservedDomid ? nullptr : handle.attachments_.get(handle.core_, domid, error);
            if (attachment_ == nullptr) return error == ENOSPC ? GNTST_no_space : GNTST_bad_domain;
        }
        const std::uint32_t ref = ptr.foreign.ref;
        DomainShared* shared = attachment_->shared();
        if (ref >= kGrantEntries) return GNTST_bad_gntref;
        (attachment_->copy_slot().*hazard_).exchange(std::uint64_t{ref} + 1, std::memory_order_seq_cst);
        if (!attachment_->alive()) return GNTST_bad_domain;
        const std::uint64_t entry = grant_table(shared)[ref].load(std::memory_order_seq_cst);
        if ((entry & kTypeMask) != kPermitAccess || entry_domid(entry) != handle.core_.domid())
            return GNTST_general_error;
        if (write && (entry & kReadOnly) != 0) return GNTST_general_error;
        const std::uint32_t frame = entry_frame(entry);
        if (frame >= attachment_->frames || populated_map(shared)[frame].load(std::memory_order_seq_cst) == 0)
            return GNTST_bad_page;
        address = attachment_->memory.bytes() + std::size_t{frame} * kPageSize + ptr.foreign.offset;
        return GNTST_okay;
    }
    void end() {
        if (attachment_ != nullptr) (attachment_->copy_slot().*hazard_).store(0, std::memory_order_release);
    }
    Attachment* attachment() const { return attachment_; }

  private:
    std::atomic<std::uint64_t> CopySlot::*hazard_;
    Attachment* attachment_ = nullptr;
};

namespace {

// An injected fault of this domain, or okay.
std::int16_t take_fault(DomainShared& shared) {
    std::uint64_t fault = shared.copy_fault.load(std::memory_order_relaxed);
    while ((fault & 0xffffffff) != 0)
        if (shared.copy_fault.compare_exchange_weak(fault, fault - 1))
            return static_cast<std::int16_t>(fault >> 32);
    return GNTST_okay;
}

struct Tally {
    Attachment* at = nullptr;
    std::uint64_t copies = 0, failures = 0, bytes = 0;

    void move_to(Attachment* next) {
        if (next == at) return;
        flush();
        at = next;
    }
    void flush() {
        if (at != nullptr && at->alive()) {
            CopySlot& slot = at->copy_slot();
            slot.calls.fetch_add(1, std::memory_order_relaxed);
            slot.copies.fetch_add(copies, std::memory_order_relaxed);
            if (failures != 0) slot.failures.fetch_add(failures, std::memory_order_relaxed);
            slot.bytes.fetch_add(bytes, std::memory_order_relaxed);
        }
        copies = failures = bytes = 0;
    }
};

}  // namespace

int GrantHandle::copy(std::uint32_t count, xengnttab_grant_copy_segment_t* segments) {
    std::lock_guard lock(mutex_);
    attachments_.sweep();
    CopyEnd source(&CopySlot::source), dest(&CopySlot::dest);
    Tally tally;
    int result = 0;
    for (std::uint32_t i = 0; i < count; ++i) {
        xengnttab_grant_copy_segment_t& s = segments[i];
        const bool from_grant = (s.flags & GNTCOPY_source_gref) != 0;
        const bool to_grant = (s.flags & GNTCOPY_dest_gref) != 0;
        if ((!from_grant && !to_grant) || (from_grant && s.source.foreign.offset + s.len > kPageSize) ||
            (to_grant && s.dest.foreign.offset + s.len > kPageSize)) {
            errno = EINVAL;
            result = -1;
            break;
        }
        char* from = static_cast<char*>(s.source.virt);
        char* to = static_cast<char*>(s.dest.virt);
        std::int16_t status = GNTST_okay;
        if (from_grant) status = source.begin(*this, s.source, false, from);
        if (status == GNTST_okay && to_grant) status = dest.begin(*this, s.dest, true, to);
        Attachment* counted =
            to_grant && dest.attachment() != nullptr ? dest.attachment() : source.attachment();
        if (status == GNTST_okay) status = take_fault(*counted->shared());
        if (status == GNTST_okay) std::memmove(to, from, s.len);
        source.end();
        dest.end();
        s.status = status;
        tally.move_to(counted);
        ++tally.copies;
        if (status == GNTST_okay)
            tally.bytes += s.len;
        else
            ++tally.failures;
    }
    tally.flush();
    return result;
}

}  // namespace ringback::xen::embedded

struct xengntdev_handle : rx::GrantHandle {};

namespace {

void* map_refs(xengnttab_handle* xgt, std::uint32_t count, const std::uint32_t* domids, std::uint32_t stride,
               const std::uint32_t* refs, int prot, std::int64_t byte = -1, std::int64_t port = -1) {
    std::vector<rx::GrantName> names(count);
    for (std::uint32_t i = 0; i < count; ++i)
        names[i] = {domids[i * stride], refs[i]};
    return xgt->map(count, names.data(), prot, byte, port);
}

}  // namespace

extern "C" {

xengnttab_handle* xengnttab_open(xentoollog_logger*, unsigned) {
    auto handle = std::make_unique<xengntdev_handle>();
    if (int error = handle->open(); error != 0) {
        errno = error;
        return nullptr;
    }
    return handle.release();
}

int xengnttab_close(xengnttab_handle* xgt) {
    delete xgt;
    return 0;
}

int xengnttab_fd(xengnttab_handle* xgt) {
    return xgt->fd();
}

int xengnttab_set_max_grants(xengnttab_handle*, uint32_t) {
    return 0;
}

void* xengnttab_map_grant_ref(xengnttab_handle* xgt, uint32_t domid, uint32_t ref, int prot) {
    return map_refs(xgt, 1, &domid, 0, &ref, prot);
}

void* xengnttab_map_grant_refs(xengnttab_handle* xgt, uint32_t count, uint32_t* domids, uint32_t* refs,
                               int prot) {
    return map_refs(xgt, count, domids, 1, refs, prot);
}

void* xengnttab_map_domain_grant_refs(xengnttab_handle* xgt, uint32_t count, uint32_t domid, uint32_t* refs,
                                      int prot) {
    return map_refs(xgt, count, &domid, 0, refs, prot);
}

void* xengnttab_map_grant_ref_notify(xengnttab_handle* xgt, uint32_t domid, uint32_t ref, int prot,
                                     uint32_t notify_offset, evtchn_port_t notify_port) {
    return map_refs(xgt, 1, &domid, 0, &ref, prot,
                    notify_offset == UINT32_MAX ? -1 : std::int64_t{notify_offset},
                    notify_port == UINT32_MAX ? -1 : std::int64_t{notify_port});
}

int xengnttab_unmap(xengnttab_handle* xgt, void* start_address, uint32_t count) {
    return xgt->unmap(start_address, count);
}

int xengnttab_grant_copy(xengnttab_handle* xgt, uint32_t count, xengnttab_grant_copy_segment_t* segs) {
    return xgt->copy(count, segs);
}

// There is no graphics stack here to share buffers with.
int xengnttab_dmabuf_exp_from_refs(xengnttab_handle*, uint32_t, uint32_t, uint32_t, const uint32_t*,
                                   uint32_t*) {
    errno = EOPNOTSUPP;
    return -1;
}

int xengnttab_dmabuf_exp_wait_released(xengnttab_handle*, uint32_t, uint32_t) {
    errno = EOPNOTSUPP;
    return -1;
}

int xengnttab_dmabuf_imp_to_refs(xengnttab_handle*, uint32_t, uint32_t, uint32_t, uint32_t*) {
    errno = EOPNOTSUPP;
    return -1;
}

int xengnttab_dmabuf_imp_release(xengnttab_handle*, uint32_t) {
    errno = EOPNOTSUPP;
    return -1;
}

}  // extern "C"
