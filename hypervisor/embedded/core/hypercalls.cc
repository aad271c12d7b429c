// SPDX-License-Identifier: Apache-2.0
//
// See hypercalls.h.
#include "hypervisor/embedded/core/hypercalls.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "hypervisor/embedded/connection.h"

namespace ringback::xen::embedded {
namespace {

template <typename T>
void put(std::vector<char>& payload, const std::vector<T>& items) {
    const char* bytes = reinterpret_cast<const char*>(items.data());
    payload.assign(bytes, bytes + items.size() * sizeof(T));
}

bool is_domid(std::int64_t value) {
    return value >= 0 && value <= kDomidSelf;
}

}  // namespace

Fd listen_unix(const std::string& path, int type) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path)
        throw std::system_error(ENAMETOOLONG, std::generic_category(), "socket " + path);
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    Fd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    ::unlink(path.c_str());
    if (!fd || ::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
        ::chmod(path.c_str(), 0600) != 0 || ::listen(fd.get(), 1024) != 0)
        throw std::system_error(errno, std::generic_category(), "listening on " + path);
    return fd;
}

Hypercalls::Hypercalls(Loop& loop, Hypervisor& hypervisor, std::string directory)
    : loop_(loop), hypervisor_(hypervisor), directory_(std::move(directory)), buffer_(kMaxMessage) {}

Hypercalls::~Hypercalls() {
    for (auto& [domid, fd] : listeners_)
        ::unlink((directory_ + "/" + CoreConnection::socket_name(domid)).c_str());
}

void Hypercalls::listen(std::uint16_t domid) {
    Fd fd = listen_unix(directory_ + "/" + CoreConnection::socket_name(domid), SOCK_SEQPACKET);
    loop_.add(fd.get(), EPOLLIN, [this, domid](std::uint32_t) { accept(domid); });
    listeners_[domid] = std::move(fd);
}

void Hypercalls::close(std::uint16_t domid) {
    auto found = listeners_.find(domid);
    if (found != listeners_.end()) {
        loop_.remove(found->second.get());
        ::unlink((directory_ + "/" + CoreConnection::socket_name(domid)).c_str());
        listeners_.erase(found);
    }
    std::vector<int> gone;
    for (auto& [fd, connection] : connections_)
        if (connection.client->domid == domid && !connection.client->privileged) gone.push_back(fd);
    for (int fd : gone)
        drop(fd);
}

void Hypercalls::accept(std::uint16_t domid) {
    Fd fd(::accept4(listeners_[domid].get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd) return;
    Client* client = hypervisor_.add_client(domid, domid == 0);
    if (client == nullptr) return;
    int number = fd.get();
    connections_[number] = {std::move(fd), client};
    loop_.add(number, EPOLLIN, [this, number](std::uint32_t) { serve(number); });
}

void Hypercalls::drop(int fd) {
    auto found = connections_.find(fd);
    if (found == connections_.end()) return;
    loop_.remove(fd);
    Connection connection = std::move(found->second);
    connections_.erase(found);
    hypervisor_.remove_client(connection.client);
}

void Hypercalls::serve(int fd) {
    ssize_t n = ::recv(fd, buffer_.data(), buffer_.size(), 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    Request request{};
    if (n < static_cast<ssize_t>(sizeof request)) return drop(fd);
    std::memcpy(&request, buffer_.data(), sizeof request);
    if (request.length != static_cast<std::size_t>(n) - sizeof request || request.op == 0 ||
        request.op >= static_cast<std::uint32_t>(Op::count_))
        return drop(fd);
    Client& client = *connections_[fd].client;
    ++calls_[request.op];
    if (Domain* self = hypervisor_.find(client.domid)) ++self->counters.hypercalls;

    Answer answer;
    handle(client, request, buffer_.data() + sizeof request, answer);
    answer.reply.length = static_cast<std::uint32_t>(answer.payload.size());
    iovec out[2] = {{&answer.reply, sizeof answer.reply}, {answer.payload.data(), answer.payload.size()}};
    msghdr message{};
    message.msg_iov = out;
    message.msg_iovlen = answer.payload.empty() ? 1 : 2;
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 4)] = {};
    if (!answer.fds.empty()) {
        std::size_t bytes = answer.fds.size() * sizeof(int);
        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE(bytes);
        cmsghdr* c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(bytes);
        std::memcpy(CMSG_DATA(c), answer.fds.data(), bytes);
    }
    // A client that does not read its answers is broken: the core does not wait for anybody.
    if (::sendmsg(fd, &message, MSG_NOSIGNAL) < 0) drop(fd);
}

void Hypercalls::handle(Client& client, const Request& request, const char* payload, Answer& answer) {
    const std::int64_t* a = request.args;
    Reply& reply = answer.reply;
    const Op op = static_cast<Op>(request.op);
    Domain* self = hypervisor_.find_alive(client.domid);
    if (self == nullptr) {
        reply.error = ESRCH;
        return;
    }
    switch (op) {
        case Op::hello:
            reply.error = a[0] == kAbiVersion ? 0 : EPROTO;
            reply.values[0] = client.domid;
            answer.fds = {client.shared_fd.get()};
            return;
        case Op::attach_domain: {
            int slot = -1;
            Domain* domain =
                is_domid(a[0]) ? hypervisor_.find_alive(static_cast<std::uint16_t>(a[0])) : nullptr;
            reply.error = domain == nullptr ? ESRCH : hypervisor_.attach(client, domain->id, slot);
            if (reply.error != 0) return;
            reply.values[0] = slot;
            reply.values[1] = domain->shared()->max_frames;
            answer.fds = {domain->memory_fd(), domain->shared_fd()};
            return;
        }
        case Op::detach_domain:
            if (is_domid(a[0])) hypervisor_.detach(client, static_cast<std::uint16_t>(a[0]));
            return;
        case Op::map_grants: {
            if (a[0] <= 0 || a[0] > kMaxBatch ||
                request.length != static_cast<std::size_t>(a[0]) * sizeof(GrantName)) {
                reply.error = EINVAL;
                return;
            }
            std::vector<GrantName> names(static_cast<std::size_t>(a[0]));
            std::memcpy(names.data(), payload, request.length);
            Mapping* mapping = nullptr;
            reply.error =
                hypervisor_.map(client, names.data(), static_cast<std::uint32_t>(a[0]), a[1] != 0, mapping);
            if (reply.error != 0) return;
            reply.values[0] = static_cast<std::int64_t>(mapping->id);
            std::vector<std::uint32_t> frames;
            for (const MappedGrant& grant : mapping->grants)
                frames.push_back(grant.frame);
            put(answer.payload, frames);
            return;
        }
        case Op::unmap:
            reply.error = hypervisor_.unmap(client, static_cast<std::uint64_t>(a[0]));
            return;
        case Op::unmap_notify:
            reply.error = hypervisor_.set_unmap_notify(client, static_cast<std::uint64_t>(a[0]), a[1], a[2]);
            return;
        case Op::page_notify:
            reply.error = hypervisor_.page_notify(client, a[0], a[1], a[2]);
            return;
        case Op::alloc_pages: {
            std::uint32_t first = 0;
            reply.error = a[0] <= 0 || a[0] > UINT32_MAX
                              ? EINVAL
                              : self->alloc_pages(static_cast<std::uint32_t>(a[0]), first);
            reply.values[0] = first;
            return;
        }
        case Op::free_pages:
            reply.error =
                a[0] < 0 || a[0] > UINT32_MAX || a[1] < 0 || a[1] > UINT32_MAX
                    ? EINVAL
                    : self->free_pages(static_cast<std::uint32_t>(a[0]), static_cast<std::uint32_t>(a[1]));
            return;
        case Op::alloc_refs: {
            std::vector<std::uint32_t> refs;
            if (a[0] <= 0 || a[0] > kGrantEntries)
                reply.error = EINVAL;
            else if (!self->alloc_refs(static_cast<std::uint32_t>(a[0]), refs))
                reply.error = ENOSPC;
            put(answer.payload, refs);
            return;
        }
        case Op::free_refs: {
            std::vector<std::uint32_t> refs(request.length / sizeof(std::uint32_t));
            std::memcpy(refs.data(), payload, refs.size() * sizeof(std::uint32_t));
            self->free_refs(refs.data(), refs.size());
            return;
        }
        case Op::populate:
            reply.error = a[0] < 0 || a[0] > UINT32_MAX
                              ? EINVAL
                              : hypervisor_.populate(*self, static_cast<std::uint32_t>(a[0]));
            reply.values[0] = self->pages;
            return;
        case Op::decrease: {
            if (request.length != 0) {
                std::uint32_t frame;
                if (request.length != sizeof frame) {
                    reply.error = EINVAL;
                    return;
                }
                std::memcpy(&frame, payload, sizeof frame);
                reply.error = self->decrease_frame(frame);
            } else {
                reply.error =
                    a[0] < 0 || a[0] > UINT32_MAX ? EINVAL : self->decrease(static_cast<std::uint32_t>(a[0]));
            }
            reply.values[0] = self->pages;
            return;
        }
        case Op::alloc_unbound:
        case Op::bind_interdomain: {
            if (!is_domid(a[0]) || a[1] < 0 || a[1] > UINT32_MAX) {
                reply.error = EINVAL;
                return;
            }
            const auto remote = static_cast<std::uint16_t>(a[0]);
            Port* port = nullptr;
            reply.error =
                op == Op::alloc_unbound
                    ? hypervisor_.alloc_unbound(client, remote, port)
                    : hypervisor_.bind_interdomain(client, remote, static_cast<std::uint32_t>(a[1]), port);
            if (reply.error != 0) return;
            reply.values[0] = port->number;
            reply.values[1] = port->counter;
            answer.fds = {port->in->get(), port->out->get()};
            return;
        }
        case Op::close_port:
            reply.error = hypervisor_.close_port(client, static_cast<std::uint32_t>(a[0]));
            return;
        case Op::restrict_evtchn:
            reply.error = is_domid(a[0])
                              ? hypervisor_.restrict_evtchn(client, static_cast<std::uint16_t>(a[0]))
                              : EINVAL;
            return;
        default:
            break;
    }
    // What is left concerns other domains, or a guest itself.
    const bool own = op == Op::shutdown || op == Op::vcpu_set;
    std::int64_t domid = a[0] == kDomidSelf ? client.domid : a[0];
    if (!client.privileged && !(own && domid == client.domid)) {
        reply.error = EPERM;
        return;
    }
    Domain* target = is_domid(domid) ? hypervisor_.find(static_cast<std::uint16_t>(domid)) : nullptr;
    const bool needs_target =
        op != Op::create_domain && op != Op::list_domains && op != Op::counters && op != Op::inject;
    if (needs_target && target == nullptr) {
        reply.error = ESRCH;
        return;
    }
    switch (op) {
        case Op::shutdown:
            reply.error = hypervisor_.shutdown_domain(target->id, static_cast<ShutdownReason>(a[1]));
            return;
        case Op::resume:
            reply.error = hypervisor_.resume_domain(target->id);
            return;
        case Op::pause:
            reply.error = hypervisor_.pause_domain(target->id, a[1] != 0);
            return;
        case Op::destroy_domain:
            reply.error = hypervisor_.destroy_domain(target->id);
            return;
        case Op::vcpu_set:
            if (a[1] < 0 || static_cast<std::size_t>(a[1]) >= target->vcpu_online.size() ||
                (a[1] == 0 && a[2] == 0))
                reply.error = EINVAL;
            else
                target->vcpu_online[static_cast<std::size_t>(a[1])] = a[2] != 0;
            return;
        case Op::rename_domain:
            target->name.assign(payload, request.length);
            return;
        case Op::set_max_pages:
            reply.error = a[1] < 0 || a[1] > UINT32_MAX
                              ? EINVAL
                              : target->set_max_pages(static_cast<std::uint32_t>(a[1]));
            return;
        default:
            break;
    }
    std::int64_t args[4] = {domid, a[1], a[2], a[3]};
    std::string text;
    reply.error = admin(op, std::string(payload, request.length), args, text);
    reply.values[0] = args[0];
    answer.payload.assign(text.begin(), text.end());
}

}  // namespace ringback::xen::embedded
