// SPDX-License-Identifier: Apache-2.0
#include "runtime/socket_channel.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

namespace ringback::channel {

namespace {

Result<sockaddr_un> address_of(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) return os_error(ENAMETOOLONG, "use " + path + " as a socket");
    path.copy(address.sun_path, path.size());
    return address;
}

}  // namespace

Result<UniqueFd> connect(const std::string& path) {
    const sockaddr_un address = TRY(address_of(path));
    UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    if (!socket) return os_error("create a socket for " + path);
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) {
        return os_error("connect to " + path);
    }
    return socket;
}

Result<UniqueFd> bind(const std::string& path, int type) {
    const sockaddr_un address = TRY(address_of(path));
    UniqueFd socket(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) return os_error("create a socket for " + path);
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) return os_error("remove the old socket " + path);
    const mode_t mask = ::umask(0177);
    const int bound = ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
    ::umask(mask);
    if (bound != 0) return os_error("bind " + path);
    return socket;
}

Result<void> send(int socket, std::span<const std::byte> message, std::span<const int> descriptors) {
    iovec vector{const_cast<std::byte*>(message.data()), message.size()};
    alignas(cmsghdr) std::byte control[CMSG_SPACE(kMostDescriptors * sizeof(int))]{};
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
    while (sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
        if (errno != EINTR) return os_error("send a message between supervisor and worker");
    }
    return {};
}

Result<std::optional<size_t>> receive(int socket, std::span<std::byte> message, bool take_descriptors,
                                      size_t max_descriptors, std::vector<UniqueFd>& descriptors) {
    iovec vector{message.data(), message.size()};
    alignas(cmsghdr) std::byte control[CMSG_SPACE(kMostDescriptors * sizeof(int))]{};
    msghdr header{};
    header.msg_iov = &vector;
    header.msg_iovlen = 1;
    // With no room for them the kernel drops descriptors, and says so.
    if (take_descriptors) {
        header.msg_control = control;
        header.msg_controllen = CMSG_SPACE(max_descriptors * sizeof(int));
    }
    const ssize_t length = recvmsg(socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (length < 0) {
        if (errno == EAGAIN || errno == EINTR) return std::optional<size_t>{};
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
            descriptors.emplace_back(fd);
        }
    }
    if (static_cast<size_t>(length) != message.size() || (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
        return os_error(EPROTO, "receive a message between supervisor and worker (other version?)");
    }
    return std::optional(static_cast<size_t>(length));
}

}  // namespace ringback::channel
