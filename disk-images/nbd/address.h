// SPDX-License-Identifier: Apache-2.0
//
// Address: where a network disk is, from its URI, and sockets to there.
//
//     nbd://HOST[:PORT]/EXPORT              TCP; a host may be a name, an IPv4 address or [an IPv6 address]
//     nbd+unix:///EXPORT?socket=/PATH       a Unix socket
//
// %XX stands for a byte in EXPORT and PATH. Apart from the image (image.h), because the process that connects parses no image and
// speaks no NBD: it hands a socket over, which may still be connecting. Nothing here blocks but resolve() of a name.
//
// Source of what it implements: the NBD project's uri.md.
#pragma once

#include <sys/socket.h>

#include <string>
#include <string_view>
#include <vector>

#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace ringback::image::nbd {

struct Address {
    std::string text;         // the URI
    std::string export_name;  // may be empty: the server's default
    std::string socket;       // absolute path; empty: TCP
    std::string host;
    std::string port;
};

struct Endpoint {
    sockaddr_storage address{};
    socklen_t length = 0;
};

[[nodiscard]] bool is_address(std::string_view text);
[[nodiscard]] Result<Address> parse_address(std::string_view text);

// Where a TCP address leads; at least one. A host that is a name is asked for only with `names`, which takes as long as it
// takes; without, EAGAIN.
[[nodiscard]] Result<std::vector<Endpoint>> resolve(const Address& address, bool names);
// Of a Unix socket's path.
[[nodiscard]] Result<Endpoint> unix_endpoint(const std::string& path);

// A socket that is connected, or (TCP) on its way: then it becomes writable, and SO_ERROR says what came of it. What was sent
// and is not acknowledged by the other host for `patience_seconds` ends a TCP connection.
[[nodiscard]] Result<UniqueFd> connect(const Endpoint& endpoint, unsigned patience_seconds, const std::string& name);

}  // namespace ringback::image::nbd
