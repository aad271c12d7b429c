// SPDX-License-Identifier: Apache-2.0
//
// The granting half of the drop-in libxengnttab.so.1 (xengntshr_*): pages of the caller's own domain, shared
// with another one. A page that the other side still maps when it is unshared is not given back: neither the
// page nor its reference can be used again, as with Linux's gntalloc until the peer lets go.
extern "C" {
#include <xengnttab.h>
}

#include <cerrno>
#include <map>
#include <memory>
#include <mutex>

#include "hypervisor/embedded/attachment.h"
#include "hypervisor/embedded/grant_entry.h"

namespace rx = ringback::xen::embedded;

namespace ringback::xen::embedded {
namespace {

class ShareHandle {
  public:
    ~ShareHandle() {
        while (!shares_.empty())
            end(shares_.begin());
    }

    int open() {
        if (int error = core_.open(CoreConnection::default_domid()); error != 0) return error;
        int error = 0;
        own_ = Attachment::make(core_, core_.domid(), error);
        return error;
    }
    int fd() const { return core_.fd(); }

    void* share(std::uint32_t domid, std::uint32_t count, std::uint32_t* refs, bool writable,
                std::int64_t byte, std::int64_t port) {
        if (count == 0 || domid >= kFirstReservedDomid || byte >= kPageSize) {
            errno = EINVAL;
            return nullptr;
        }
        CallResult pages = core_.call(Op::alloc_pages, {count});
        if (pages.error != 0) {
            errno = pages.error;
            return nullptr;
        }
        CallResult numbers = core_.call(Op::alloc_refs, {count});
        if (numbers.error != 0) {
            core_.call(Op::free_pages, {pages.values[0], count});
            errno = numbers.error;
            return nullptr;
        }
        Share share;
        share.first = static_cast<std::uint32_t>(pages.values[0]);
        share.refs.assign(numbers.items<std::uint32_t>(), numbers.items<std::uint32_t>() + count);
        share.notify = byte >= 0 || port >= 0;
        char* address = own_->memory.bytes() + std::size_t{share.first} * kPageSize;
        std::fill_n(address, std::size_t{count} * kPageSize, char{0});
        for (std::uint32_t i = 0; i < count; ++i) {
            refs[i] = share.refs[i];
            grant(own_->shared(), refs[i], static_cast<std::uint16_t>(domid), share.first + i, !writable);
        }
        std::lock_guard lock(mutex_);
        int error = share.notify ? core_.call(Op::page_notify, {share.first, byte, port}).error : 0;
        auto added = shares_.emplace(address, std::move(share)).first;
        if (error == 0) return address;
        end(added);
        errno = error;
        return nullptr;
    }

    int unshare(void* address, std::uint32_t count) {
        std::lock_guard lock(mutex_);
        auto found = shares_.find(static_cast<char*>(address));
        if (found == shares_.end() || found->second.refs.size() != count) {
            errno = EINVAL;
            return -1;
        }
        end(found);
        return 0;
    }

  private:
    struct Share {
        std::uint32_t first = 0;
        std::vector<std::uint32_t> refs;
        bool notify = false;
    };

    void end(std::map<char*, Share>::iterator it) {
        Share& share = it->second;
        if (share.notify) core_.call(Op::page_notify, {share.first, -1, -1});
        for (std::uint32_t i = 0; i < share.refs.size(); ++i) {
            if (!revoke(own_->shared(), share.refs[i])) continue;
            core_.call(Op::free_refs, {}, &share.refs[i], sizeof share.refs[i]);
            core_.call(Op::free_pages, {share.first + i, 1});
        }
        shares_.erase(it);
    }

    CoreConnection core_;
    std::unique_ptr<Attachment> own_;
    std::mutex mutex_;
    std::map<char*, Share> shares_;
};

}  // namespace
}  // namespace ringback::xen::embedded

// xengntdev_handle is also the type of a sharing handle in Xen's header; the two kinds are never mixed by a
// caller.
namespace {

ringback::xen::embedded::ShareHandle* share_handle(xengntshr_handle* xgs) {
    return reinterpret_cast<ringback::xen::embedded::ShareHandle*>(xgs);
}

std::int64_t or_none(std::uint32_t value) {
    return value == UINT32_MAX ? -1 : std::int64_t{value};
}

}  // namespace

extern "C" {

xengntshr_handle* xengntshr_open(xentoollog_logger*, unsigned) {
    auto handle = std::make_unique<rx::ShareHandle>();
    if (int error = handle->open(); error != 0) {
        errno = error;
        return nullptr;
    }
    return reinterpret_cast<xengntshr_handle*>(handle.release());
}

int xengntshr_close(xengntshr_handle* xgs) {
    delete share_handle(xgs);
    return 0;
}

int xengntshr_fd(xengntshr_handle* xgs) {
    return share_handle(xgs)->fd();
}

void* xengntshr_share_pages(xengntshr_handle* xgs, uint32_t domid, int count, uint32_t* refs, int writable) {
    if (count <= 0) {
        errno = EINVAL;
        return nullptr;
    }
    return share_handle(xgs)->share(domid, static_cast<std::uint32_t>(count), refs, writable != 0, -1, -1);
}

void* xengntshr_share_page_notify(xengntshr_handle* xgs, uint32_t domid, uint32_t* ref, int writable,
                                  uint32_t notify_offset, evtchn_port_t notify_port) {
    return share_handle(xgs)->share(domid, 1, ref, writable != 0, or_none(notify_offset),
                                    or_none(notify_port));
}

int xengntshr_unshare(xengntshr_handle* xgs, void* start_address, uint32_t count) {
    return share_handle(xgs)->unshare(start_address, count);
}

}  // extern "C"
