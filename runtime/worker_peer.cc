// SPDX-License-Identifier: Apache-2.0
#include "runtime/worker_peer.h"

#include <fmt/format.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <sstream>

namespace ringback {

namespace {

std::string link_target(const std::string& path) {
    std::array<char, PATH_MAX> buffer{};
    const ssize_t length = ::readlink(path.c_str(), buffer.data(), buffer.size());
    return length < 0 ? std::string{} : std::string(buffer.data(), static_cast<size_t>(length));
}

bool in_unit(pid_t pid, const std::string& unit) {
    std::ifstream file(fmt::format("/proc/{}/cgroup", pid));
    std::ostringstream groups;
    groups << file.rdbuf();
    return groups.str().find("/" + unit) != std::string::npos;
}

bool same_file(const std::string& a, const std::string& b) {
    struct stat first {}, second {};
    return ::stat(a.c_str(), &first) == 0 && ::stat(b.c_str(), &second) == 0 && first.st_dev == second.st_dev &&
           first.st_ino == second.st_ino;
}

}  // namespace

ucred peer_of(int socket) {
    ucred peer{};
    socklen_t length = sizeof(peer);
    INVARIANT(::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0);
    return peer;
}

Result<pid_t> check_worker(int socket, const DaemonConfig& config, const std::string& unit, pid_t child) {
    const ucred peer = peer_of(socket);
    if (config.worker_start == WorkerStart::systemd) {
        if (in_unit(peer.pid, unit)) return peer.pid;
        return Error{EPERM, fmt::format("process {} is not in {}", peer.pid, unit)};
    }
    if (peer.uid != ::geteuid()) return Error{EPERM, fmt::format("process {} runs as user {}", peer.pid, peer.uid)};
    const std::string program = fmt::format("/proc/{}/exe", peer.pid);
    if ((child != 0 && child == peer.pid) || same_file(program, config.worker_program)) return peer.pid;
    // What an undumpable process runs only root may see. Who is our own user could do to us what he likes anyway.
    if (::geteuid() != 0 && link_target(program).empty()) return peer.pid;
    return Error{EPERM,
                 fmt::format("process {} runs {}, not {}", peer.pid, link_target(program), config.worker_program)};
}

}  // namespace ringback
