// SPDX-License-Identifier: Apache-2.0
#include "runtime/control_client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>

#include "runtime/unique_fd.h"

namespace ringback {

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMaxAnswer = 64U << 20;

// A daemon's socket has its name.
std::string daemon_of(const std::string& path) {
    const std::string file = path.substr(path.rfind('/') + 1);
    return file.substr(0, file.find('.'));
}

Result<UniqueFd> connect_to(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof(address.sun_path)) return os_error(ENAMETOOLONG, "connect to " + path);
    path.copy(address.sun_path, path.size());
    UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket) return os_error("create a socket");
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) return socket;
    const int error = errno;
    if (error == ECONNREFUSED || error == ENOENT) {
        return Error{error, daemon_of(path) + " does not run (no answer at " + path + "); start it with: systemctl start " +
                                daemon_of(path)};
    }
    return os_error(error, "connect to " + daemon_of(path) + " at " + path);
}

}  // namespace

Result<nlohmann::json> ask(const std::string& path, nlohmann::json request, std::chrono::milliseconds patience) {
    const UniqueFd socket = TRY(connect_to(path));
    request["version"] = 1;
    const std::string line = request.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
    if (::send(socket.get(), line.data(), line.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(line.size())) {
        return os_error("ask " + daemon_of(path) + " at " + path);
    }
    const Clock::time_point end = Clock::now() + patience;
    std::string answer;
    while (answer.find('\n') == std::string::npos) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now()).count();
        pollfd readable{socket.get(), POLLIN, 0};
        if (left <= 0 || ::poll(&readable, 1, static_cast<int>(left)) == 0) {
            return Error{ETIMEDOUT, daemon_of(path) + " did not answer in time"};
        }
        std::array<char, 65536> bytes{};
        const ssize_t got = ::recv(socket.get(), bytes.data(), bytes.size(), 0);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return os_error("read the answer of " + daemon_of(path));
        if (got == 0 || answer.size() > kMaxAnswer) return Error{EPROTO, daemon_of(path) + " ended the connection without an answer"};
        answer.append(bytes.data(), static_cast<size_t>(got));
    }
    nlohmann::json body = nlohmann::json::parse(answer, nullptr, false);
    if (!body.is_object() || !body.contains("ok") || !body["ok"].is_boolean()) {
        return Error{EPROTO, daemon_of(path) + " sent an answer that is none"};
    }
    if (body["ok"].get<bool>()) return body;
    const auto error = body.find("error");
    return Error{EIO, error != body.end() && error->is_string() ? error->get<std::string>() : daemon_of(path) + " refused"};
}

}  // namespace ringback
