// SPDX-License-Identifier: Apache-2.0
//
// ControlClients: who talks to a supervisor's control socket, a line each, as far as it listens.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "target.h"

namespace ringback::fuzz {

class ControlClients {
  public:
    explicit ControlClients(std::string path) : path_(std::move(path)) {}

    void say(const std::string& line) {
        if (sockets_.size() >= 4) sockets_.clear();
        UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        path_.copy(address.sun_path, sizeof address.sun_path - 1);
        if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return;
        (void)::send(socket.get(), line.data(), line.size(), MSG_NOSIGNAL);
        sockets_.push_back(std::move(socket));
    }
    // What was answered, if it was: a line of JSON, which is all a client may get.
    void listen() {
        std::array<char, 4096> bytes;
        for (const UniqueFd& socket : sockets_) {
            const ssize_t got = ::recv(socket.get(), bytes.data(), bytes.size(), 0);
            if (got > 0) INVARIANT(bytes[0] == '{');
        }
    }
    void hang_up() { sockets_.clear(); }

  private:
    const std::string path_;
    std::vector<UniqueFd> sockets_;
};

}  // namespace ringback::fuzz
