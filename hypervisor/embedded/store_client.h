// SPDX-License-Identifier: Apache-2.0
//
// A small xenstore client for guests and toolstacks of the embedded core. libxenstore finds its socket
// through an environment variable, which one process cannot set differently for each of its guests; that is
// the only reason for this one. Calls are synchronous; watch events that arrive while an answer is awaited
// are kept for next_event(). Thread: one owner.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hypervisor/embedded/fd.h"
#include "runtime/result.h"

namespace ringback::xen::embedded {

struct StoreEvent {
    std::string path;
    std::string token;
};

class StoreClient {
  public:
    // The store as a domain sees it: `store` for 0, `store.<domid>` for others, in RINGBACK_CORE's directory.
    [[nodiscard]] static Result<StoreClient> open(std::uint16_t domid);
    [[nodiscard]] static Result<StoreClient> open(const std::string& socket_path);

    // `tx` is a transaction from begin(), or 0. Errors carry the errno that xenstored sent.
    Result<std::string> read(const std::string& path, std::uint32_t tx = 0);
    // What read() gives, or nothing, whatever the reason.
    std::optional<std::string> get(const std::string& path, std::uint32_t tx = 0);
    Result<std::vector<std::string>> list(const std::string& path, std::uint32_t tx = 0);
    Result<void> write(const std::string& path, std::string_view value, std::uint32_t tx = 0);
    Result<void> mkdir(const std::string& path, std::uint32_t tx = 0);
    Result<void> remove(const std::string& path, std::uint32_t tx = 0);
    Result<std::vector<std::string>> permissions(const std::string& path, std::uint32_t tx = 0);
    Result<void> set_permissions(const std::string& path, const std::vector<std::string>& permissions,
                                 std::uint32_t tx = 0);

    Result<std::uint32_t> begin();
    // False if it lost against another writer: begin again.
    Result<bool> commit(std::uint32_t tx);
    void abandon(std::uint32_t tx);
    // Runs `body` in a transaction until it commits; an error of the body abandons it.
    Result<void> transact(const std::function<Result<void>(std::uint32_t tx)>& body);

    Result<void> watch(const std::string& path, const std::string& token);
    Result<void> unwatch(const std::string& path, const std::string& token);
    // Readable when more may have arrived; ask next_event() until it has nothing before waiting on this.
    int fd() const { return socket_.get(); }
    std::optional<StoreEvent> next_event();
    // Waits for the next event; ETIMEDOUT if none comes.
    Result<StoreEvent> wait_event(int timeout_ms);
    // Watches `path` until `done` accepts its value (nullopt: not there); ETIMEDOUT if that does not happen
    // in time.
    Result<void> wait_for(const std::string& path,
                          const std::function<bool(const std::optional<std::string>&)>& done, int timeout_ms);

    // For privileged connections.
    Result<void> introduce(std::uint16_t domid);
    Result<void> release(std::uint16_t domid);

    // Any request, for tests of the protocol: the reply's payload.
    Result<std::string> request(std::uint32_t type, std::string_view payload, std::uint32_t tx = 0);

  private:
    Result<std::string> ask(std::uint32_t type, std::string_view payload, std::uint32_t tx, const char* what,
                            const std::string& path);
    // Reads whatever has arrived; false at end of file.
    bool fill(int timeout_ms);
    void take_messages();

    Fd socket_;
    std::string in_;
    std::deque<StoreEvent> events_;
    std::uint32_t next_request_ = 1;
    bool answered_ = false;
    std::uint32_t answer_type_ = 0;
    std::string answer_;
    std::uint64_t next_wait_ = 0;
};

}  // namespace ringback::xen::embedded
