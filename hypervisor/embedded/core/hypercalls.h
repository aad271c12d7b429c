// SPDX-License-Identifier: Apache-2.0
//
// The hypercall sockets: `hypervisor` for the privileged domain 0 and `guest.<domid>` for each other domain.
// The socket a client connects to is its identity; nothing in a message can change it. Requests are checked
// for length and range here and nowhere else, then carried out by Hypervisor.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "hypervisor/embedded/core/hypervisor.h"

namespace ringback::xen::embedded {

class Hypercalls {
  public:
    Hypercalls(Loop& loop, Hypervisor& hypervisor, std::string directory);
    ~Hypercalls();

    void listen(std::uint16_t domid);
    // Ends the domain's socket and its own clients.
    void close(std::uint16_t domid);

    // Decides what a request of a privileged client outside the plain hypercalls does (admin.cc).
    std::function<int(Op op, const std::string& payload, std::int64_t* args, std::string& reply)> admin;
    std::uint64_t calls(Op op) const { return calls_[static_cast<std::size_t>(op)]; }

  private:
    struct Connection {
        Fd socket;
        Client* client = nullptr;
    };
    struct Answer {
        Reply reply{};
        std::vector<char> payload;
        std::vector<int> fds;
    };

    void accept(std::uint16_t domid);
    void serve(int fd);
    void drop(int fd);
    void handle(Client& client, const Request& request, const char* payload, Answer& answer);

    Loop& loop_;
    Hypervisor& hypervisor_;
    std::string directory_;
    std::map<std::uint16_t, Fd> listeners_;
    std::map<int, Connection> connections_;
    std::vector<char> buffer_;
    std::uint64_t calls_[static_cast<std::size_t>(Op::count_)] = {};
};

// Binds and listens on a Unix socket in the core's directory, replacing what a dead core left behind.
Fd listen_unix(const std::string& path, int type);

}  // namespace ringback::xen::embedded
