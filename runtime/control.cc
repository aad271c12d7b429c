// SPDX-License-Identifier: Apache-2.0
#include "runtime/control.h"

#include <fmt/format.h>
#include <grp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>

#include "runtime/log.h"
#include "runtime/socket_channel.h"

namespace ringback {

namespace {

constexpr size_t kMaxClients = 64;
// Longer than the longest wait a command has (wait-ready), and its answer's way out.
constexpr std::chrono::seconds kLifetime{60};

}  // namespace

Result<std::optional<std::string>> ControlRequest::text(const char* key) const {
    const auto found = arguments.find(key);
    if (found == arguments.end() || found->is_null()) return std::optional<std::string>{};
    if (!found->is_string()) return Error{EINVAL, fmt::format("\"{}\" must be a text", key)};
    return std::optional(found->get<std::string>());
}

Result<std::optional<uint64_t>> ControlRequest::number(const char* key, uint64_t high) const {
    const auto found = arguments.find(key);
    if (found == arguments.end() || found->is_null()) return std::optional<uint64_t>{};
    if (!found->is_number_unsigned() || found->get<uint64_t>() > high) {
        return Error{EINVAL, fmt::format("\"{}\" must be a number from 0 to {}", key, high)};
    }
    return std::optional(found->get<uint64_t>());
}

Result<ControlRequest> parse_control_request(std::string_view line) {
    // Nesting costs the parser stack: no request is deeper than one object of plain values.
    int depth = 0;
    for (const char c : line) {
        if (c == '[' || c == '{') ++depth;
        if (depth > 16) return Error{EINVAL, "the request is no JSON object of plain values"};
    }
    nlohmann::json body = nlohmann::json::parse(line, nullptr, false);
    if (body.is_discarded() || !body.is_object()) return Error{EINVAL, "the request is no JSON object"};
    const auto version = body.find("version");
    if (version == body.end() || !version->is_number_unsigned() || version->get<uint64_t>() != kControlVersion) {
        return Error{EPROTO, fmt::format("the request's \"version\" must be {}", kControlVersion)};
    }
    const auto command = body.find("command");
    if (command == body.end() || !command->is_string()) return Error{EINVAL, "the request has no \"command\""};
    std::string name = command->get<std::string>();
    return ControlRequest{std::move(name), std::move(body)};
}

nlohmann::json control_error(const std::string& message) { return {{"ok", false}, {"error", message}}; }

ControlServer::~ControlServer() {
    for (auto& [number, client] : clients_) loop_.forget(client.socket.get());
    if (listener_) loop_.forget(listener_.get());
}

Result<void> ControlServer::listen(Handler handler) {
    handler_ = std::move(handler);
    listener_ = TRY(channel::bind(path_, SOCK_STREAM));
    if (const group* allowed = ::getgrnam(group_.c_str()); allowed != nullptr) {
        if (::chown(path_.c_str(), static_cast<uid_t>(-1), allowed->gr_gid) != 0 || ::chmod(path_.c_str(), 0660) != 0) {
            log::warning("{}", os_error(fmt::format("give {} to group {}", path_, group_)).message);
        }
    }
    if (::listen(listener_.get(), 64) != 0) return os_error("listen on " + path_);
    return loop_.watch(listener_.get(), EPOLLIN, [this](uint32_t) { accept_one(); });
}

void ControlServer::accept_one() {
    UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket || clients_.size() >= kMaxClients) return;
    const uint64_t number = next_number_++;
    if (!loop_.watch(socket.get(), EPOLLIN, [this, number](uint32_t events) { on_client(number, events); })) return;
    Client client;
    client.socket = std::move(socket);
    client.deadline = loop_.after(kLifetime, [this, number] { drop(number); });
    clients_.emplace(number, std::move(client));
}

void ControlServer::on_client(uint64_t number, uint32_t events) {
    const auto found = clients_.find(number);
    if (found == clients_.end()) return;
    Client& client = found->second;
    if ((events & EPOLLOUT) != 0) return write_some(number, client);
    if (client.asked) return drop(number);  // gone before its answer, or it talks out of turn
    read_some(number, client);
}

void ControlServer::read_some(uint64_t number, Client& client) {
    std::array<char, 4096> bytes{};
    const ssize_t got = ::recv(client.socket.get(), bytes.data(), bytes.size(), 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) return drop(number);
    client.in.append(bytes.data(), static_cast<size_t>(got));
    const size_t end = client.in.find('\n');
    if (end == std::string::npos) {
        if (client.in.size() <= kMaxControlLine) return;
        client.asked = true;
        return answer(number, control_error(fmt::format("the request is longer than {} bytes", kMaxControlLine)));
    }
    client.asked = true;
    const auto request = parse_control_request(std::string_view(client.in).substr(0, end));
    if (!request) return answer(number, control_error(request.error().message));
    // The handler may answer at once, which may end `client`.
    handler_(request.value(), [this, number](nlohmann::json result) { answer(number, std::move(result)); });
}

void ControlServer::answer(uint64_t number, nlohmann::json answer) {
    const auto found = clients_.find(number);
    if (found == clients_.end()) return;  // it did not wait
    answer["version"] = kControlVersion;
    // Names and texts may hold any bytes; what is no UTF-8 is replaced.
    found->second.out = answer.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
    loop_.change(found->second.socket.get(), EPOLLOUT);
}

void ControlServer::write_some(uint64_t number, Client& client) {
    const ssize_t sent = ::send(client.socket.get(), client.out.data(), client.out.size(), MSG_NOSIGNAL);
    if (sent < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (sent < 0) return drop(number);
    client.out.erase(0, static_cast<size_t>(sent));
    if (client.out.empty()) drop(number);
}

void ControlServer::drop(uint64_t number) {
    const auto found = clients_.find(number);
    if (found == clients_.end()) return;
    loop_.cancel(found->second.deadline);
    loop_.forget(found->second.socket.get());
    clients_.erase(found);
}

}  // namespace ringback
