// SPDX-License-Identifier: Apache-2.0
//
// See guest.h.
#include "hypervisor/embedded/guest.h"

#include <poll.h>

#include <cerrno>

#include "hypervisor/embedded/grant_entry.h"

namespace ringback::xen::embedded {

GuestPort& GuestPort::operator=(GuestPort&& other) noexcept {
    if (this != &other) {
        close();
        core_ = std::move(other.core_);
        number_ = other.number_;
        counter_ = other.counter_;
        in_ = std::move(other.in_);
        out_ = std::move(other.out_);
    }
    return *this;
}

void GuestPort::notify() {
    const std::uint64_t one = 1;
    [[maybe_unused]] ssize_t n = ::write(out_.get(), &one, sizeof one);
    if (counter_ != nullptr) counter_->fetch_add(1, std::memory_order_relaxed);
}

bool GuestPort::clear() {
    std::uint64_t count;
    return ::read(in_.get(), &count, sizeof count) == sizeof count;
}

bool GuestPort::wait(int timeout_ms) {
    pollfd p{in_.get(), POLLIN, 0};
    while (::poll(&p, 1, timeout_ms) < 0 && errno == EINTR) {
    }
    return clear();
}

void GuestPort::close() {
    if (!core_) return;
    core_->call(Op::close_port, {number_});
    core_.reset();
    in_.reset();
    out_.reset();
}

Result<Guest> Guest::connect(std::uint16_t domid) {
    const std::string name = "domain " + std::to_string(domid) + " in " + CoreConnection::directory();
    Guest guest;
    guest.core_ = std::make_shared<CoreConnection>();
    if (int error = guest.core_->open(domid); error != 0) return os_error(error, "connect to " + name);
    int error = 0;
    guest.own_ = Attachment::make(*guest.core_, domid, error);
    if (!guest.own_) return os_error(error, "attach the memory of " + name);
    return guest;
}

Result<std::uint32_t> Guest::alloc_pages(std::uint32_t count) {
    CallResult result = core_->call(Op::alloc_pages, {count});
    if (result.error != 0) return os_error(result.error, "allocate " + std::to_string(count) + " pages");
    return static_cast<std::uint32_t>(result.values[0]);
}

void Guest::free_pages(std::uint32_t first, std::uint32_t count) {
    core_->call(Op::free_pages, {first, count});
}

Result<std::vector<std::uint32_t>> Guest::alloc_refs(std::uint32_t count) {
    CallResult result = core_->call(Op::alloc_refs, {count});
    if (result.error != 0)
        return os_error(result.error, "reserve " + std::to_string(count) + " grant references");
    const std::uint32_t* refs = result.items<std::uint32_t>();
    return std::vector<std::uint32_t>(refs, refs + result.count(sizeof *refs));
}

void Guest::free_refs(const std::vector<std::uint32_t>& refs) {
    core_->call(Op::free_refs, {}, refs.data(), refs.size() * sizeof refs[0]);
}

void Guest::grant_at(std::uint32_t ref, std::uint32_t frame, std::uint16_t to, bool readonly) const {
    embedded::grant(own_->shared(), ref, to, frame, readonly);
}

bool Guest::end_access(std::uint32_t ref) const {
    return revoke(own_->shared(), ref);
}

Result<std::uint32_t> Guest::grant(std::uint32_t frame, std::uint16_t to, bool readonly) {
    std::vector<std::uint32_t> refs = TRY(alloc_refs(1));
    grant_at(refs[0], frame, to, readonly);
    return refs[0];
}

Result<GuestPort> Guest::bind(Op op, std::uint16_t remote, std::uint32_t remote_port) {
    CallResult result = core_->call(op, {remote, remote_port});
    if (result.error == 0 && result.fds.size() != 2) result.error = EPROTO;
    if (result.error != 0) return os_error(result.error, "bind a port to domain " + std::to_string(remote));
    GuestPort port;
    port.core_ = core_;
    port.number_ = static_cast<std::uint32_t>(result.values[0]);
    if (result.values[1] >= 0) port.counter_ = &core_->shared()->notifies[result.values[1]];
    port.in_ = std::move(result.fds[0]);
    port.out_ = std::move(result.fds[1]);
    return port;
}

Result<GuestPort> Guest::alloc_unbound_port(std::uint16_t remote) {
    return bind(Op::alloc_unbound, remote, 0);
}

Result<GuestPort> Guest::bind_interdomain(std::uint16_t remote, std::uint32_t remote_port) {
    return bind(Op::bind_interdomain, remote, remote_port);
}

Result<std::uint32_t> Guest::reservation(Op op, std::int64_t pages) {
    CallResult result = core_->call(op, {pages});
    if (result.error != 0)
        return os_error(result.error,
                        (op == Op::populate ? "populate " : "give back ") + std::to_string(pages) + " pages");
    return static_cast<std::uint32_t>(result.values[0]);
}

Result<std::uint32_t> Guest::populate(std::uint32_t pages) {
    return reservation(Op::populate, pages);
}

Result<std::uint32_t> Guest::decrease(std::uint32_t pages) {
    return reservation(Op::decrease, pages);
}

Result<std::uint32_t> Guest::balloon_out(std::uint32_t frame) {
    CallResult result = core_->call(Op::decrease, {}, &frame, sizeof frame);
    if (result.error != 0) return os_error(result.error, "balloon out frame " + std::to_string(frame));
    return static_cast<std::uint32_t>(result.values[0]);
}

Result<std::uint32_t> Guest::follow_memory_target(std::uint64_t target_kib) {
    const std::uint64_t target = target_kib * 1024 / kPageSize;
    const std::uint32_t now = TRY(populate(0));
    if (target > UINT32_MAX) return os_error(EINVAL, "balloon to " + std::to_string(target_kib) + " KiB");
    if (target > now) return populate(static_cast<std::uint32_t>(target - now));
    if (target < now) return decrease(static_cast<std::uint32_t>(now - target));
    return now;
}

Result<void> Guest::set_vcpu(std::uint32_t vcpu, bool online) {
    CallResult result = core_->call(Op::vcpu_set, {kDomidSelf, vcpu, online});
    if (result.error != 0) return os_error(result.error, "switch vCPU " + std::to_string(vcpu));
    return {};
}

Result<void> Guest::shutdown(ShutdownReason reason) {
    CallResult result = core_->call(Op::shutdown, {kDomidSelf, static_cast<std::int64_t>(reason)});
    if (result.error != 0) return os_error(result.error, "shut down");
    return {};
}

}  // namespace ringback::xen::embedded
