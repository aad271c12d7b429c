// SPDX-License-Identifier: Apache-2.0
//
// The control socket of a daemon: one JSON line in, one JSON line out, then the connection is closed.
//
// docs/control-protocol.md has the commands. Who may connect is decided by the file system: root, and the group of the
// configuration. What comes is hostile all the same: a line is bounded, a connection lives a bounded time, their
// number is bounded, and JSON that is none is an error answer.
//
// Thread: the supervisor's.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "runtime/event_loop.h"
#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace ringback {

inline constexpr int kControlVersion = 1;
inline constexpr size_t kMaxControlLine = 16384;

struct ControlRequest {
    std::string command;
    nlohmann::json arguments;  // the whole request; an object

    // nullopt: absent. An error: there, but of another type, or out of range.
    [[nodiscard]] Result<std::optional<std::string>> text(const char* key) const;
    [[nodiscard]] Result<std::optional<uint64_t>> number(const char* key, uint64_t high) const;
};

// Adds the version and sends; called once, at once or later.
using Responder = std::function<void(nlohmann::json answer)>;

[[nodiscard]] Result<ControlRequest> parse_control_request(std::string_view line);
[[nodiscard]] nlohmann::json control_error(const std::string& message);

class ControlServer {
  public:
    using Handler = std::function<void(const ControlRequest&, Responder)>;

    // `group` may use the socket beside root, when there is such a group.
    ControlServer(EventLoop& loop, std::string path, std::string group)
        : loop_(loop), path_(std::move(path)), group_(std::move(group)) {}
    ~ControlServer();
    ControlServer(const ControlServer&) = delete;
    ControlServer& operator=(const ControlServer&) = delete;

    [[nodiscard]] Result<void> listen(Handler handler);

  private:
    struct Client {
        UniqueFd socket;
        std::string in;
        std::string out;
        bool asked = false;
        EventLoop::Timer deadline{};
    };

    void accept_one();
    void on_client(uint64_t number, uint32_t events);
    void read_some(uint64_t number, Client& client);
    void write_some(uint64_t number, Client& client);
    void answer(uint64_t number, nlohmann::json answer);
    void drop(uint64_t number);

    EventLoop& loop_;
    const std::string path_;
    const std::string group_;
    Handler handler_;
    UniqueFd listener_;
    uint64_t next_number_ = 1;
    std::map<uint64_t, Client> clients_;
};

}  // namespace ringback
