// SPDX-License-Identifier: Apache-2.0
//
// Channel: one end of the supervisor/worker connection: Messages with descriptors, over a SOCK_SEQPACKET socket.
//
// Used by both ends. A datagram that is not exactly one Message of our version, or that carries more descriptors than
// this end takes, ends the connection: EPROTO. The supervisor takes none: the kernel closes what a worker sends along.
//
// Never blocks. A peer that does not read its messages is an EAGAIN of send(), and what was not sent is still the
// caller's: the supervisor sends it when the socket has room, a worker gives the connection up.
//
// Thread: whichever owns it.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "blkback/worker_protocol.h"
#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace ringback::blk {

struct Received {
    Message message;
    std::vector<UniqueFd> descriptors;
};

class Channel {
  public:
    static constexpr size_t kMaxDescriptors = 4;
    enum class Descriptors : uint8_t { taken, refused };

    Channel() = default;  // no connection
    explicit Channel(UniqueFd socket, Descriptors incoming = Descriptors::taken)
        : socket_(std::move(socket)), incoming_(incoming) {}
    [[nodiscard]] static Result<Channel> connect(const std::string& path);

    explicit operator bool() const { return static_cast<bool>(socket_); }
    [[nodiscard]] int fd() const { return socket_.get(); }
    void close() { socket_.reset(); }
    // EAGAIN: the peer has not read what it got before.
    [[nodiscard]] Result<void> send(const Message& message, std::span<const int> descriptors = {});
    // nullopt: nothing there now. ECONNRESET: the peer is gone.
    [[nodiscard]] Result<std::optional<Received>> receive();

  private:
    UniqueFd socket_;
    Descriptors incoming_ = Descriptors::taken;
};

}  // namespace ringback::blk
