// SPDX-License-Identifier: Apache-2.0
//
// See store.h. Sockets and framing; the operations are in store_operations.cc, watches in store_watches.cc.
#include "hypervisor/embedded/core/store.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "hypervisor/embedded/core/hypercalls.h"
#include "hypervisor/embedded/xs_wire.h"

namespace ringback::xen::embedded {
namespace {

constexpr std::size_t kGuestQueueBytes = 2 * 1024 * 1024;

std::string socket_name(std::uint16_t domid) {
    return domid == 0 ? "store" : "store." + std::to_string(domid);
}

const char* error_name(int error) {
    for (const struct xsd_errors& known : ::xsd_errors)
        if (known.errnum == error) return known.errstring;
    return "EINVAL";
}

}  // namespace

StoreServer::StoreServer(Loop& loop, Hypervisor& hypervisor, std::string directory)
    : loop_(loop), hypervisor_(hypervisor), directory_(std::move(directory)) {
    special_["@introduceDomain"] = {{0, Permission::none}};
    special_["@releaseDomain"] = {{0, Permission::none}};
    introduced_.insert(0);
}

StoreServer::~StoreServer() {
    for (auto& [domid, fd] : listeners_)
        ::unlink((directory_ + "/" + socket_name(domid)).c_str());
}

void StoreServer::listen(std::uint16_t domid) {
    Fd fd = listen_unix(directory_ + "/" + socket_name(domid), SOCK_STREAM);
    loop_.add(fd.get(), EPOLLIN, [this, domid](std::uint32_t) { accept(domid); });
    listeners_[domid] = std::move(fd);
}

void StoreServer::close(std::uint16_t domid) {
    introduced_.erase(domid);
    auto found = listeners_.find(domid);
    if (found != listeners_.end()) {
        loop_.remove(found->second.get());
        ::unlink((directory_ + "/" + socket_name(domid)).c_str());
        listeners_.erase(found);
    }
    std::vector<int> gone;
    for (auto& [fd, connection] : connections_)
        if (connection.domid == domid) gone.push_back(fd);
    for (int fd : gone)
        drop(fd);
}

void StoreServer::accept(std::uint16_t domid) {
    Fd fd(::accept4(listeners_[domid].get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd) return;
    int number = fd.get();
    Connection& c = connections_[number];
    c.socket = std::move(fd);
    c.domid = domid;
    loop_.add(number, EPOLLIN, [this, number](std::uint32_t events) {
        auto found = connections_.find(number);
        if (found == connections_.end()) return;
        if ((events & EPOLLOUT) != 0 && !flush(found->second)) return;
        if ((events & ~static_cast<std::uint32_t>(EPOLLOUT)) != 0) readable(number);
    });
}

void StoreServer::drop(int fd) {
    loop_.remove(fd);
    connections_.erase(fd);
}

// False if the connection is gone.
bool StoreServer::flush(Connection& c) {
    while (c.sent < c.out.size()) {
        ssize_t n = ::send(c.socket.get(), c.out.data() + c.sent, c.out.size() - c.sent, MSG_NOSIGNAL);
        if (n > 0) {
            c.sent += static_cast<std::size_t>(n);
            continue;
        }
        if (errno == EINTR) continue;
        if (errno == EAGAIN) {
            c.out.erase(0, c.sent);
            c.sent = 0;
            // A guest that asks without reading the answers is not heard until it has read.
            loop_.modify(c.socket.get(),
                         c.domid != 0 && c.out.size() > kGuestQueueBytes ? EPOLLOUT : EPOLLIN | EPOLLOUT);
            return true;
        }
        // The peer is gone: its end of file arrives as a read, and everything is cleaned up there.
        break;
    }
    c.out.clear();
    c.sent = 0;
    loop_.modify(c.socket.get(), EPOLLIN);
    return true;
}

void StoreServer::queue(Connection& c, std::uint32_t type, std::uint32_t request_id, std::uint32_t tx,
                        std::string_view payload) {
    if (type == XS_WATCH_EVENT && c.domid != 0 && c.out.size() > kGuestQueueBytes) {
        ++dropped_events_;
        return;
    }
    xsd_sockmsg header{type, request_id, tx, static_cast<std::uint32_t>(payload.size())};
    const bool idle = c.out.empty();
    c.out.append(reinterpret_cast<const char*>(&header), sizeof header);
    c.out.append(payload);
    if (idle) flush(c);
}

void StoreServer::readable(int fd) {
    Connection& c = connections_.at(fd);
    char buffer[16384];
    ssize_t n = ::recv(fd, buffer, sizeof buffer, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) return drop(fd);
    c.in.append(buffer, static_cast<std::size_t>(n));
    std::size_t at = 0;
    while (c.in.size() - at >= sizeof(xsd_sockmsg)) {
        xsd_sockmsg header;
        std::memcpy(&header, c.in.data() + at, sizeof header);
        if (header.len > XENSTORE_PAYLOAD_MAX) return drop(fd);
        if (c.in.size() - at < sizeof header + header.len) break;
        Message message{header.type, header.req_id, header.tx_id, c.in.substr(at + sizeof header, header.len),
                        {},          false};
        at += sizeof header + header.len;
        process(c, message);
    }
    c.in.erase(0, at);
}

void StoreServer::process(Connection& c, Message& m) {
    ++requests_;
    std::size_t start = 0;
    while (start < m.payload.size()) {
        std::size_t end = m.payload.find('\0', start);
        if (end == std::string::npos) end = m.payload.size();
        m.strings.push_back(m.payload.substr(start, end - start));
        start = end + 1;
    }
    m.terminated = !m.payload.empty() && m.payload.back() == '\0';

    Transaction* tx = nullptr;
    Answer answer;
    std::vector<Change> changes;
    if (m.transaction_id != 0 && m.type != XS_TRANSACTION_END) {
        auto found = c.transactions.find(m.transaction_id);
        if (found == c.transactions.end()) {
            answer.error = ENOENT;
        } else {
            tx = found->second.get();
        }
    }
    if (answer.error == 0) answer = dispatch(c, m, tx, changes);
    if (answer.error == 0) {
        // Inside a transaction watches fire at its end; the requester's own events go out before its reply.
        if (tx != nullptr)
            tx->changes.insert(tx->changes.end(), changes.begin(), changes.end());
        else
            for (const Change& change : changes)
                fire(change);
    }
    if (answer.error != 0) {
        std::string name = error_name(answer.error);
        name.push_back('\0');
        queue(c, XS_ERROR, m.request_id, m.transaction_id, name);
    } else {
        queue(c, m.type, m.request_id, m.transaction_id, answer.payload);
    }
    if (m.type == XS_WATCH && answer.error == 0) {
        // The first event only says that the watch is there.
        Watch& added = c.watches.back();
        add_event(c, added, added.path);
    }
    if (m.type == XS_INTRODUCE && answer.error == 0) fire_special("@introduceDomain");
    if (m.type == XS_RELEASE && answer.error == 0) fire_special("@releaseDomain");
}

StoreServer::Answer StoreServer::dispatch(Connection& c, Message& m, Transaction* tx,
                                          std::vector<Change>& changes) {
    switch (m.type) {
        case XS_DIRECTORY:
            return directory(c, m, tx);
        case XS_DIRECTORY_PART:
            return directory_part(c, m, tx);
        case XS_READ:
            return read(c, m, tx);
        case XS_WRITE:
            return write(c, m, tx, changes);
        case XS_MKDIR:
            return mkdir(c, m, tx, changes);
        case XS_RM:
            return rm(c, m, tx, changes);
        case XS_GET_PERMS:
            return get_permissions(c, m, tx);
        case XS_SET_PERMS:
            return set_permissions(c, m, tx, changes);
        case XS_WATCH:
            return watch(c, m);
        case XS_UNWATCH:
            return unwatch(c, m);
        case XS_RESET_WATCHES:
            c.watches.clear();
            c.held.clear();
            c.transactions.clear();
            return {0, std::string("OK", 3)};
        case XS_TRANSACTION_START:
            return start_transaction(c, m);
        case XS_TRANSACTION_END:
            return end_transaction(c, m, changes);
        case XS_CONTROL:
            return control(c, m);
        case XS_INTRODUCE:
        case XS_RELEASE:
        case XS_RESUME:
        case XS_SET_TARGET:
        case XS_IS_DOMAIN_INTRODUCED:
        case XS_GET_DOMAIN_PATH:
            return domain_operation(c, m);
        default:
            return {ENOSYS, {}};
    }
}

std::size_t StoreServer::watches() const {
    std::size_t n = 0;
    for (const auto& [fd, c] : connections_)
        n += c.watches.size();
    return n;
}

std::size_t StoreServer::transactions() const {
    std::size_t n = 0;
    for (const auto& [fd, c] : connections_)
        n += c.transactions.size();
    return n;
}

}  // namespace ringback::xen::embedded
