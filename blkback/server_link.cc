// SPDX-License-Identifier: Apache-2.0
#include "blkback/server_link.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>

#include <array>
#include <utility>

namespace ringback::blk {

namespace {

constexpr size_t kMaxConnections = 16;  // a worker needs four

bool ended(const UniqueFd& socket, int flags) {
    std::array<char, 16384> nobody_wants;
    for (;;) {
        const ssize_t got = ::recv(socket.get(), nobody_wants.data(), nobody_wants.size(), flags | MSG_DONTWAIT);
        if (got == 0) return true;
        if (got < 0 && errno != EINTR) return errno != EAGAIN && errno != EWOULDBLOCK;
        if (got > 0 && (flags & MSG_PEEK) != 0) return false;
    }
}

}  // namespace

Result<image::nbd::Endpoint> ServerLink::next_endpoint(UniqueFd& found, const PathRules& rules) {
    if (!address_.socket.empty()) {
        found = TRY(find_socket(address_.socket, rules));
        return image::nbd::unix_endpoint(fmt::format("/proc/self/fd/{}", found.get()));
    }
    if (not_found_) {
        const Error error = *std::exchange(not_found_, std::nullopt);
        return error;
    }
    if (endpoints_.empty() && !lookup_) {
        auto numeric = image::nbd::resolve(address_, false);
        if (numeric) {
            endpoints_ = std::move(numeric).value();
        } else if (numeric.error().code != EAGAIN) {
            return numeric.error();
        } else {
            auto shared = std::make_shared<std::vector<image::nbd::Endpoint>>();
            lookup_ = TRY(Lookup::start(
                loop_, address_.host,
                [shared, address = address_]() -> Result<void> {
                    *shared = TRY(image::nbd::resolve(address, true));
                    return {};
                },
                [this, shared](const Result<void>& answer) {
                    lookup_.reset();
                    if (answer) endpoints_ = std::move(*shared);
                    else not_found_ = answer.error();
                }));
        }
    }
    if (lookup_) return Error{EAGAIN, fmt::format("open {}: its host is being looked up", address_.text)};
    return endpoints_[next_++ % endpoints_.size()];
}

Result<UniqueFd> ServerLink::connect(const PathRules& rules, unsigned patience_seconds) {
    forget_ended();
    if (connections_.size() >= kMaxConnections) return os_error(EMFILE, "connect to " + address_.text);
    UniqueFd found;
    const image::nbd::Endpoint endpoint = TRY(next_endpoint(found, rules));
    UniqueFd socket = TRY(image::nbd::connect(endpoint, patience_seconds, address_.text));
    UniqueFd kept(::fcntl(socket.get(), F_DUPFD_CLOEXEC, 3));
    if (!kept) return os_error("connect to " + address_.text);
    connections_.push_back(std::move(kept));
    return socket;
}

// Those that the worker gave up, or the server.
void ServerLink::forget_ended() {
    std::erase_if(connections_, [](const UniqueFd& socket) { return ended(socket, MSG_PEEK); });
}

void ServerLink::break_off() {
    for (const UniqueFd& socket : connections_) (void)::shutdown(socket.get(), SHUT_WR);
}

bool ServerLink::drained() {
    std::erase_if(connections_, [](const UniqueFd& socket) { return ended(socket, 0); });
    return connections_.empty();
}

}  // namespace ringback::blk
