// SPDX-License-Identifier: Apache-2.0
//
// SocketChannel: one end of a supervisor/worker connection: messages with descriptors, over a SOCK_SEQPACKET socket.
//
// Used by both ends. A datagram that is not exactly one Message of our version, or that carries more descriptors than
// this end takes, ends the connection: EPROTO. An end that takes none lets the kernel close what the other sends along.
//
// Never blocks. A peer that does not read its messages is an EAGAIN of send(), and what was not sent is still the
// caller's: a supervisor sends it when the socket has room, a worker gives the connection up.
//
// Thread: whichever owns it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace ringback {

namespace channel {

[[nodiscard]] Result<UniqueFd> connect(const std::string& path);
// A socket bound to `path`, in the place of whatever was there, for this user alone; the caller lets it listen. `type` is
// SOCK_SEQPACKET or SOCK_STREAM.
[[nodiscard]] Result<UniqueFd> bind(const std::string& path, int type);
[[nodiscard]] Result<void> send(int socket, std::span<const std::byte> message, std::span<const int> descriptors);
// The bytes received, exactly those of the message or EPROTO; nullopt: nothing there now.
[[nodiscard]] Result<std::optional<size_t>> receive(int socket, std::span<std::byte> message, bool take_descriptors,
                                                    size_t max_descriptors, std::vector<UniqueFd>& descriptors);

inline constexpr size_t kMostDescriptors = 16;

}  // namespace channel

// Message is of fixed layout and begins with its `version`.
template <typename Message, uint32_t kVersion, size_t kDescriptors>
class SocketChannel {
    static_assert(std::is_trivially_copyable_v<Message> && kDescriptors <= channel::kMostDescriptors);

  public:
    static constexpr size_t kMaxDescriptors = kDescriptors;
    enum class Descriptors : uint8_t { taken, refused };
    struct Received {
        Message message;
        std::vector<UniqueFd> descriptors;
    };

    SocketChannel() = default;  // no connection
    explicit SocketChannel(UniqueFd socket, Descriptors incoming = Descriptors::taken)
        : socket_(std::move(socket)), incoming_(incoming) {}
    [[nodiscard]] static Result<SocketChannel> connect(const std::string& path) {
        return SocketChannel(TRY(channel::connect(path)));
    }

    explicit operator bool() const { return static_cast<bool>(socket_); }
    [[nodiscard]] int fd() const { return socket_.get(); }
    void close() { socket_.reset(); }
    // EAGAIN: the peer has not read what it got before.
    [[nodiscard]] Result<void> send(const Message& message, std::span<const int> descriptors = {}) {
        INVARIANT(descriptors.size() <= kMaxDescriptors);
        return channel::send(socket_.get(), std::as_bytes(std::span(&message, 1)), descriptors);
    }
    // nullopt: nothing there now. ECONNRESET: the peer is gone.
    [[nodiscard]] Result<std::optional<Received>> receive() {
        Received received;
        const auto length =
            TRY(channel::receive(socket_.get(), std::as_writable_bytes(std::span(&received.message, 1)),
                                 incoming_ == Descriptors::taken, kMaxDescriptors, received.descriptors));
        if (!length) return std::optional<Received>{};
        if (received.message.version != kVersion) {
            return os_error(EPROTO, "receive a message between supervisor and worker (other version?)");
        }
        return std::optional(std::move(received));
    }

  private:
    UniqueFd socket_;
    Descriptors incoming_ = Descriptors::taken;
};

}  // namespace ringback
