// SPDX-License-Identifier: Apache-2.0
//
// See store_client.h. Protocol: Xen's public/io/xs_wire.h.
#include "hypervisor/embedded/store_client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <chrono>
#include <cstring>

#include "hypervisor/embedded/connection.h"
#include "hypervisor/embedded/xs_wire.h"

namespace ringback::xen::embedded {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kAnswerTimeoutMs = 20000;

int left_ms(Clock::time_point deadline) {
    auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    return left > 0 ? static_cast<int>(left) : 0;
}

int error_number(const std::string& name) {
    for (const struct xsd_errors& known : ::xsd_errors)
        if (name == known.errstring) return known.errnum;
    return EIO;
}

std::string terminated(std::string_view text) {
    std::string s(text);
    s.push_back('\0');
    return s;
}

std::vector<std::string> split(const std::string& payload) {
    std::vector<std::string> parts;
    for (std::size_t start = 0; start < payload.size();) {
        std::size_t end = payload.find('\0', start);
        if (end == std::string::npos) end = payload.size();
        parts.push_back(payload.substr(start, end - start));
        start = end + 1;
    }
    return parts;
}

Result<void> drop_value(Result<std::string> result) {
    if (!result.ok()) return result.error();
    return {};
}

}  // namespace

Result<StoreClient> StoreClient::open(std::uint16_t domid) {
    return open(CoreConnection::directory() + (domid == 0 ? "/store" : "/store." + std::to_string(domid)));
}

Result<StoreClient> StoreClient::open(const std::string& socket_path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (socket_path.size() >= sizeof address.sun_path)
        return os_error(ENAMETOOLONG, "connect to " + socket_path);
    std::memcpy(address.sun_path, socket_path.c_str(), socket_path.size() + 1);
    StoreClient client;
    client.socket_ = Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!client.socket_ ||
        ::connect(client.socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
        return os_error("connect to " + socket_path);
    return client;
}

bool StoreClient::fill(int timeout_ms) {
    pollfd p{socket_.get(), POLLIN, 0};
    int ready = ::poll(&p, 1, timeout_ms);
    if (ready < 0) return errno == EINTR;
    if (ready == 0) return true;
    char buffer[8192];
    ssize_t n = ::recv(socket_.get(), buffer, sizeof buffer, 0);
    if (n < 0) return errno == EINTR || errno == EAGAIN;
    if (n == 0) return false;
    in_.append(buffer, static_cast<std::size_t>(n));
    take_messages();
    return true;
}

void StoreClient::take_messages() {
    std::size_t at = 0;
    while (in_.size() - at >= sizeof(xsd_sockmsg)) {
        xsd_sockmsg header;
        std::memcpy(&header, in_.data() + at, sizeof header);
        if (in_.size() - at < sizeof header + header.len) break;
        std::string payload = in_.substr(at + sizeof header, header.len);
        at += sizeof header + header.len;
        if (header.type == XS_WATCH_EVENT) {
            std::vector<std::string> parts = split(payload);
            if (parts.size() >= 2) events_.push_back({parts[0], parts[1]});
        } else {
            answered_ = true;
            answer_type_ = header.type;
            answer_ = std::move(payload);
        }
    }
    in_.erase(0, at);
}

Result<std::string> StoreClient::ask(std::uint32_t type, std::string_view payload, std::uint32_t tx,
                                     const char* what, const std::string& path) {
    const std::string tried = std::string("store: ") + what + " " + path;
    if (payload.size() > XENSTORE_PAYLOAD_MAX) return os_error(E2BIG, tried);
    xsd_sockmsg header{type, next_request_++, tx, static_cast<std::uint32_t>(payload.size())};
    std::string out(reinterpret_cast<const char*>(&header), sizeof header);
    out.append(payload);
    for (std::size_t sent = 0; sent < out.size();) {
        ssize_t n = ::send(socket_.get(), out.data() + sent, out.size() - sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return os_error(tried);
        sent += static_cast<std::size_t>(n);
    }
    answered_ = false;
    const auto deadline = Clock::now() + std::chrono::milliseconds(kAnswerTimeoutMs);
    while (!answered_) {
        int left = left_ms(deadline);
        if (left == 0) return os_error(ETIMEDOUT, tried);
        if (!fill(left)) return os_error(ECONNRESET, tried);
    }
    if (answer_type_ == XS_ERROR) return os_error(error_number(answer_.c_str()), tried);
    return std::move(answer_);
}

Result<std::string> StoreClient::request(std::uint32_t type, std::string_view payload, std::uint32_t tx) {
    return ask(type, payload, tx, "request", std::to_string(type));
}

Result<std::string> StoreClient::read(const std::string& path, std::uint32_t tx) {
    return ask(XS_READ, terminated(path), tx, "read", path);
}

std::optional<std::string> StoreClient::get(const std::string& path, std::uint32_t tx) {
    Result<std::string> value = read(path, tx);
    if (!value.ok()) return std::nullopt;
    return *value;
}

Result<std::vector<std::string>> StoreClient::list(const std::string& path, std::uint32_t tx) {
    Result<std::string> names = ask(XS_DIRECTORY, terminated(path), tx, "list", path);
    if (names.ok()) return split(*names);
    if (names.error().code != E2BIG) return names.error();
    // Too long for one answer: in pieces, from the start again whenever the directory changes meanwhile.
    std::string all, generation;
    for (;;) {
        std::string payload = terminated(path) + terminated(std::to_string(all.size()));
        std::string part = TRY(ask(XS_DIRECTORY_PART, payload, tx, "list", path));
        std::string now = part.c_str();
        if (!all.empty() && now != generation) {
            all.clear();
            continue;
        }
        generation = now;
        all.append(part, now.size() + 1, std::string::npos);
        // An empty name ends it.
        if (all.empty() || (all.size() >= 2 && all[all.size() - 2] == '\0')) break;
        if (all == std::string(1, '\0')) break;
    }
    if (!all.empty()) all.pop_back();
    return split(all);
}

Result<void> StoreClient::write(const std::string& path, std::string_view value, std::uint32_t tx) {
    std::string payload = terminated(path);
    payload.append(value);
    return drop_value(ask(XS_WRITE, payload, tx, "write", path));
}

Result<void> StoreClient::mkdir(const std::string& path, std::uint32_t tx) {
    return drop_value(ask(XS_MKDIR, terminated(path), tx, "mkdir", path));
}

Result<void> StoreClient::remove(const std::string& path, std::uint32_t tx) {
    return drop_value(ask(XS_RM, terminated(path), tx, "remove", path));
}

Result<std::vector<std::string>> StoreClient::permissions(const std::string& path, std::uint32_t tx) {
    return split(TRY(ask(XS_GET_PERMS, terminated(path), tx, "permissions of", path)));
}

Result<void> StoreClient::set_permissions(const std::string& path,
                                          const std::vector<std::string>& permissions, std::uint32_t tx) {
    std::string payload = terminated(path);
    for (const std::string& permission : permissions)
        payload += terminated(permission);
    return drop_value(ask(XS_SET_PERMS, payload, tx, "set permissions of", path));
}

Result<std::uint32_t> StoreClient::begin() {
    std::string id = TRY(ask(XS_TRANSACTION_START, terminated(""), 0, "begin", "transaction"));
    return static_cast<std::uint32_t>(std::strtoul(id.c_str(), nullptr, 10));
}

Result<bool> StoreClient::commit(std::uint32_t tx) {
    Result<std::string> result = ask(XS_TRANSACTION_END, terminated("T"), tx, "commit", "transaction");
    if (result.ok()) return true;
    if (result.error().code == EAGAIN) return false;
    return result.error();
}

void StoreClient::abandon(std::uint32_t tx) {
    (void)ask(XS_TRANSACTION_END, terminated("F"), tx, "abandon", "transaction");
}

Result<void> StoreClient::transact(const std::function<Result<void>(std::uint32_t tx)>& body) {
    for (;;) {
        std::uint32_t tx = TRY(begin());
        if (Result<void> result = body(tx); !result.ok()) {
            abandon(tx);
            return result;
        }
        if (TRY(commit(tx))) return {};
    }
}

Result<void> StoreClient::watch(const std::string& path, const std::string& token) {
    return drop_value(ask(XS_WATCH, terminated(path) + terminated(token), 0, "watch", path));
}

Result<void> StoreClient::unwatch(const std::string& path, const std::string& token) {
    return drop_value(ask(XS_UNWATCH, terminated(path) + terminated(token), 0, "unwatch", path));
}

std::optional<StoreEvent> StoreClient::next_event() {
    if (events_.empty()) fill(0);
    if (events_.empty()) return std::nullopt;
    StoreEvent event = std::move(events_.front());
    events_.pop_front();
    return event;
}

Result<StoreEvent> StoreClient::wait_event(int timeout_ms) {
    const auto deadline = Clock::now() + std::chrono::milliseconds(timeout_ms);
    for (;;) {
        if (std::optional<StoreEvent> event = next_event()) return *event;
        int left = left_ms(deadline);
        if (left == 0) return os_error(ETIMEDOUT, "store: wait for an event");
        if (!fill(left)) return os_error(ECONNRESET, "store: wait for an event");
    }
}

Result<void> StoreClient::wait_for(const std::string& path,
                                   const std::function<bool(const std::optional<std::string>&)>& done,
                                   int timeout_ms) {
    const auto deadline = Clock::now() + std::chrono::milliseconds(timeout_ms);
    const std::string token = "wait_for." + std::to_string(next_wait_++);
    TRY(watch(path, token));
    std::deque<StoreEvent> others;
    Result<void> result;
    for (;;) {
        Result<StoreEvent> event = wait_event(left_ms(deadline));
        if (!event.ok()) {
            result = os_error(event.error().code, "store: wait for " + path);
            break;
        }
        if (event->token != token) {
            others.push_back(*event);
        } else if (done(get(path))) {
            break;
        }
    }
    (void)unwatch(path, token);
    // What arrived for other watches meanwhile is still to be delivered; what is left of ours is not.
    for (StoreEvent& event : events_)
        if (event.token != token) others.push_back(std::move(event));
    events_ = std::move(others);
    return result;
}

Result<void> StoreClient::introduce(std::uint16_t domid) {
    std::string payload = terminated(std::to_string(domid)) + terminated("0") + terminated("0");
    return drop_value(ask(XS_INTRODUCE, payload, 0, "introduce domain", std::to_string(domid)));
}

Result<void> StoreClient::release(std::uint16_t domid) {
    return drop_value(
        ask(XS_RELEASE, terminated(std::to_string(domid)), 0, "release domain", std::to_string(domid)));
}

}  // namespace ringback::xen::embedded
