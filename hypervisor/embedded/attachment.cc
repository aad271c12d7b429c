// SPDX-License-Identifier: Apache-2.0
//
// See attachment.h.
#include "hypervisor/embedded/attachment.h"

#include <cerrno>

namespace ringback::xen::embedded {

std::unique_ptr<Attachment> Attachment::make(CoreConnection& core, std::uint16_t domid, int& error) {
    CallResult result = core.call(Op::attach_domain, {domid});
    error = result.error;
    if (error != 0) return nullptr;
    auto a = std::make_unique<Attachment>();
    a->domid = domid;
    a->slot = static_cast<int>(result.values[0]);
    a->frames = static_cast<std::uint32_t>(result.values[1]);
    if (result.fds.size() == 2) {
        a->memory_fd = std::move(result.fds[0]);
        a->memory = Mapped(a->memory_fd.get(), std::size_t{a->frames} * kPageSize);
        a->shared_page = Mapped(result.fds[1].get(), shared_size(a->frames));
    }
    if (!a->memory || !a->shared_page) {
        error = ENOMEM;
        return nullptr;
    }
    return a;
}

Attachment* Attachments::get(CoreConnection& core, std::uint16_t domid, int& error) {
    auto found = known_.find(domid);
    if (found != known_.end() && found->second->alive()) return found->second.get();
    // A newcomer is the moment to look for the dead.
    for (auto it = known_.begin(); it != known_.end();) {
        if (it->second->alive()) {
            ++it;
            continue;
        }
        dead_.push_back(std::move(it->second));
        it = known_.erase(it);
    }
    std::unique_ptr<Attachment> a = Attachment::make(core, domid, error);
    if (!a) return nullptr;
    return (known_[domid] = std::move(a)).get();
}

}  // namespace ringback::xen::embedded
