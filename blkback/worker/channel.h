// SPDX-License-Identifier: Apache-2.0
//
// Channel: one end of the supervisor/worker connection: Messages with descriptors, over a SOCK_SEQPACKET socket.
//
// Used by both ends. A datagram that is not exactly one Message of our version, or that carries more descriptors than
// any message has, ends the connection: EPROTO.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "blkback/worker_protocol.h"
#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace ringback::blk::worker {

struct Received {
    Message message;
    std::vector<UniqueFd> descriptors;
};

class Channel {
  public:
    static constexpr size_t kMaxDescriptors = 4;

    explicit Channel(UniqueFd socket) : socket_(std::move(socket)) {}
    [[nodiscard]] static Result<Channel> connect(const std::string& path);

    [[nodiscard]] int fd() const { return socket_.get(); }
    // Never blocks for long: a peer that does not read its messages loses the connection (EAGAIN is an error here).
    [[nodiscard]] Result<void> send(const Message& message, std::span<const int> descriptors = {});
    // nullopt: nothing there now. ECONNRESET: the peer is gone.
    [[nodiscard]] Result<std::optional<Received>> receive();

  private:
    UniqueFd socket_;
};

}  // namespace ringback::blk::worker
