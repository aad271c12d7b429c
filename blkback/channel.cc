// SPDX-License-Identifier: Apache-2.0
#include "blkback/channel.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>

namespace ringback::blk {

Result<Channel> Channel::connect(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) return os_error(ENAMETOOLONG, "connect to " + path);
    path.copy(address.sun_path, path.size());
    UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    if (!socket) return os_error("create a socket for " + path);
    if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0) {
        return os_error("connect to " + path);
    }
    return Channel(std::move(socket));
}

Result<void> Channel::send(const Message& message, std::span<const int> descriptors) {
    INVARIANT(descriptors.size() <= kMaxDescriptors);
    iovec vector{const_cast<Message*>(&message), sizeof message};
    alignas(cmsghdr) std::byte control[CMSG_SPACE(kMaxDescriptors * sizeof(int))]{};
    msghdr header{};
    header.msg_iov = &vector;
    header.msg_iovlen = 1;
    if (!descriptors.empty()) {
        header.msg_control = control;
        header.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
        cmsghdr* rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(descriptors.size_bytes());
        std::memcpy(CMSG_DATA(rights), descriptors.data(), descriptors.size_bytes());
    }
    while (sendmsg(socket_.get(), &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
        if (errno != EINTR) return os_error("send a message between supervisor and worker");
    }
    return {};
}

Result<std::optional<Received>> Channel::receive() {
    Received received;
    iovec vector{&received.message, sizeof received.message};
    alignas(cmsghdr) std::byte control[CMSG_SPACE(kMaxDescriptors * sizeof(int))]{};
    msghdr header{};
    header.msg_iov = &vector;
    header.msg_iovlen = 1;
    // With no room for them the kernel drops descriptors, and says so.
    if (incoming_ == Descriptors::taken) {
        header.msg_control = control;
        header.msg_controllen = sizeof control;
    }
    const ssize_t length = recvmsg(socket_.get(), &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (length < 0) {
        if (errno == EAGAIN || errno == EINTR) return std::optional<Received>{};
        return os_error("receive a message between supervisor and worker");
    }
    if (length == 0) return os_error(ECONNRESET, "receive a message between supervisor and worker");
    // Take ownership of the descriptors before judging the message, so that none leaks.
    for (cmsghdr* item = CMSG_FIRSTHDR(&header); item != nullptr; item = CMSG_NXTHDR(&header, item)) {
        if (item->cmsg_level != SOL_SOCKET || item->cmsg_type != SCM_RIGHTS) continue;
        const size_t count = (item->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; ++i) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(item) + i * sizeof fd, sizeof fd);
            received.descriptors.emplace_back(fd);
        }
    }
    if (static_cast<size_t>(length) != sizeof(Message) || received.message.version != kProtocolVersion ||
        (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
        return os_error(EPROTO, "receive a message between supervisor and worker (other version?)");
    }
    return std::optional(std::move(received));
}

}  // namespace ringback::blk
