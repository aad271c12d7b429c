// SPDX-License-Identifier: Apache-2.0
//
// See connection.h. Messages travel over SOCK_SEQPACKET, so a short read cannot happen and a reply cannot be
// split.
#include "hypervisor/embedded/connection.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace ringback::xen::embedded {
namespace {

constexpr int kCallTimeoutSeconds = 20;
constexpr std::size_t kMaxFds = 4;

}  // namespace

std::string CoreConnection::directory() {
    const char* dir = std::getenv("RINGBACK_CORE");
    return dir != nullptr && *dir != 0 ? dir : "/run/ringback-embedded";
}

std::string CoreConnection::socket_name(std::uint16_t domid) {
    return domid == 0 ? "hypervisor" : "guest." + std::to_string(domid);
}

std::uint16_t CoreConnection::default_domid() {
    const char* id = std::getenv("RINGBACK_DOMID");
    return id == nullptr ? std::uint16_t{0} : static_cast<std::uint16_t>(std::atoi(id));
}

int CoreConnection::open(std::uint16_t domid, bool close_on_exec) {
    return open(directory() + "/" + socket_name(domid), close_on_exec);
}

int CoreConnection::open(const std::string& socket_path, bool close_on_exec) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (socket_path.size() >= sizeof address.sun_path) return ENAMETOOLONG;
    std::memcpy(address.sun_path, socket_path.c_str(), socket_path.size() + 1);
    Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | (close_on_exec ? SOCK_CLOEXEC : 0), 0));
    if (!fd) return errno;
    if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return errno;
    timeval timeout{kCallTimeoutSeconds, 0};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
    socket_ = std::move(fd);
    buffer_.resize(kMaxMessage);
    CallResult hello = call(Op::hello, {kAbiVersion});
    if (hello.error != 0) return hello.error;
    if (hello.fds.size() != 1) return EPROTO;
    domid_ = static_cast<std::uint16_t>(hello.values[0]);
    shared_ = Mapped(hello.fds[0].get(), kPageSize);
    return shared_ ? 0 : ENOMEM;
}

CallResult CoreConnection::call(Op op, std::initializer_list<std::int64_t> args, const void* payload,
                                std::size_t length) {
    CallResult result;
    if (sizeof(Request) + length > kMaxMessage) {
        result.error = E2BIG;
        return result;
    }
    Request request{};
    request.op = static_cast<std::uint32_t>(op);
    request.length = static_cast<std::uint32_t>(length);
    std::copy(args.begin(), args.end(), request.args);

    std::lock_guard lock(mutex_);
    iovec out[2] = {{&request, sizeof request}, {const_cast<void*>(payload), length}};
    msghdr message{};
    message.msg_iov = out;
    message.msg_iovlen = length == 0 ? 1 : 2;
    ssize_t n;
    do {
        n = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        result.error = errno == EPIPE || errno == ENOTCONN ? ENODEV : errno;
        return result;
    }
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxFds)];
    iovec in{buffer_.data(), buffer_.size()};
    message = {};
    message.msg_iov = &in;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    do {
        n = ::recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    if (n <= 0) {
        result.error = n == 0 || errno == ECONNRESET ? ENODEV : errno == EAGAIN ? ETIMEDOUT : errno;
        // A late reply would be taken for the answer to the next call.
        ::shutdown(socket_.get(), SHUT_RDWR);
        return result;
    }
    for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
        std::size_t fds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (std::size_t i = 0; i < fds; ++i) {
            int fd;
            std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
            result.fds.emplace_back(fd);
        }
    }
    Reply reply{};
    if (static_cast<std::size_t>(n) < sizeof reply) {
        result.error = EPROTO;
        return result;
    }
    std::memcpy(&reply, buffer_.data(), sizeof reply);
    result.error = reply.error;
    std::copy(std::begin(reply.values), std::end(reply.values), result.values);
    result.payload.assign(buffer_.data() + sizeof reply, buffer_.data() + n);
    return result;
}

}  // namespace ringback::xen::embedded
