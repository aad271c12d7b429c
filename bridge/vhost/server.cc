// SPDX-License-Identifier: Apache-2.0
#include "bridge/vhost/server.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <utility>

#include "runtime/socket_channel.h"

namespace ringback::bridge::vhost {

namespace {

// Requests.
constexpr uint32_t kGetFeatures = 1;
constexpr uint32_t kSetFeatures = 2;
constexpr uint32_t kSetOwner = 3;
constexpr uint32_t kSetMemoryTable = 5;
constexpr uint32_t kSetRingSlots = 8;
constexpr uint32_t kSetRingAddress = 9;
constexpr uint32_t kSetRingBase = 10;
constexpr uint32_t kSetRingKick = 12;
constexpr uint32_t kSetRingCall = 13;
constexpr uint32_t kGetProtocolFeatures = 15;
constexpr uint32_t kSetProtocolFeatures = 16;
constexpr uint32_t kSetRingEnable = 18;

constexpr uint32_t kVersion = 1;
constexpr uint32_t kVersionBits = 3;
constexpr uint32_t kReply = 4;
constexpr uint64_t kNoDescriptor = 256;  // of a kick: the device polls

constexpr uint64_t bit(unsigned number) { return uint64_t{1} << number; }
// Features of the device (virtio 1.2, 5.1.3 and 6). "Host" is the device there, "guest" the driver.
constexpr uint64_t kHostChecksum = bit(0);
constexpr uint64_t kGuestChecksum = bit(1);
constexpr uint64_t kGuestTcp4 = bit(7);
constexpr uint64_t kGuestTcp6 = bit(8);
constexpr uint64_t kHostTcp4 = bit(11);
constexpr uint64_t kHostTcp6 = bit(12);
constexpr uint64_t kMergedBuffers = bit(15);
constexpr uint64_t kManyQueues = bit(22);
constexpr uint64_t kProtocol = bit(30);
constexpr uint64_t kVersion1 = bit(32);
constexpr uint64_t kInOrder = bit(35);
constexpr uint64_t kNeeded = kMergedBuffers | kProtocol | kVersion1;
constexpr uint64_t kProtocolManyQueues = bit(0);

}  // namespace

struct Server::Message {
    uint32_t request = 0;
    uint32_t flags = kVersion;
    uint32_t size = 0;
    uint32_t words[10] = {};  // the longest that is sent or received here
    static constexpr size_t kHeader = 12;

    void add(uint64_t value) {
        std::memcpy(reinterpret_cast<std::byte*>(words) + size, &value, sizeof value);
        size += sizeof value;
    }
    void add(uint32_t first, uint32_t second) { add(uint64_t{second} << 32 | first); }
    [[nodiscard]] uint64_t number() const {
        uint64_t value = 0;
        std::memcpy(&value, words, sizeof value);
        return value;
    }
};

Result<std::unique_ptr<Server>> Server::listen(EventLoop& loop, std::string path, Events events) {
    std::unique_ptr<Server> server(new Server(loop, std::move(path), std::move(events)));
    server->listener_ = TRY(channel::bind(server->path_, SOCK_STREAM));
    if (::listen(server->listener_.get(), 4) != 0) return os_error("listen on " + server->path_);
    TRY(loop.watch(server->listener_.get(), EPOLLIN, [self = server.get()](uint32_t) { self->accept_one(); }));
    return server;
}

Server::~Server() {
    if (connection_) loop_.forget(connection_.get());
    if (!listener_) return;
    loop_.forget(listener_.get());
    (void)::unlink(path_.c_str());
}

void Server::accept_one() {
    UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) return;
    drop();  // one device at a time: the newest, as the former one has died
    connection_ = std::move(socket);
    if (!watch_connection()) return drop();
    begin();
}

Result<void> Server::watch_connection() {
    return loop_.watch(connection_.get(), EPOLLIN, [this](uint32_t) { readable(); });
}

void Server::start(const RingMemory& memory, std::vector<int> events, const Abilities& guest) {
    memory_ = &memory;
    notify_ = std::move(events);
    guest_ = guest;
    begin();
}

void Server::stop() {
    memory_ = nullptr;
    // One that has not been told of them may stay. Nobody is told of the end.
    if (std::exchange(step_, Step::idle) != Step::idle) drop();
}

void Server::adopt(UniqueFd connection, const Abilities& device) {
    drop();
    connection_ = std::move(connection);
    if (!watch_connection()) return drop();
    step_ = Step::up;
    events_.up(device);
}

void Server::begin() {
    if (!connection_ || memory_ == nullptr || step_ != Step::idle) return;
    step_ = Step::features;
    if (!ask(kGetFeatures)) drop();
}

void Server::drop() {
    if (!connection_) return;
    loop_.forget(connection_.get());
    connection_.reset();
    if (std::exchange(step_, Step::idle) == Step::up) events_.down();
}

void Server::readable() {
    const auto done = receive();
    if (done) return;
    // That it ends is nothing to complain of.
    if (done.error().code != ECONNRESET) events_.bad(done.error().message);
    drop();
}

Result<void> Server::receive() {
    Message message;
    auto* const bytes = reinterpret_cast<std::byte*>(&message);
    // Replies are short and written in one go. What a device sends unasked is none of ours.
    const ssize_t got = ::recv(connection_.get(), bytes, Message::kHeader, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return {};
    if (got <= 0) return Error{ECONNRESET, "the device has gone"};
    const bool reply = got == Message::kHeader && (message.flags & kVersionBits) == kVersion && (message.flags & kReply) != 0;
    if (!reply || message.size != sizeof(uint64_t) ||
        ::recv(connection_.get(), bytes + Message::kHeader, message.size, MSG_DONTWAIT) != static_cast<ssize_t>(message.size)) {
        return Error{EPROTO, "the vhost-user device on " + path_ + " sent what nobody asked for"};
    }
    return handle(message);
}

Result<void> Server::handle(const Message& message) {
    const uint64_t value = message.number();
    const auto unasked = [&] {
        return Error{EPROTO, fmt::format("the vhost-user device on {} answered request {} unasked", path_, message.request)};
    };
    switch (step_) {
        case Step::idle:
        case Step::up: return unasked();
        case Step::features: {
            if (message.request != kGetFeatures) return unasked();
            const uint64_t needed = kNeeded | (memory_->pairs() > 1 ? kManyQueues : 0);
            if ((value & needed) != needed) {
                return Error{ENOTSUP, fmt::format("the vhost-user device on {} has features {:x}, of which {:x} are missing", path_,
                                                  value, needed & ~value)};
            }
            uint64_t wanted = needed | kInOrder | kHostChecksum | kHostTcp4 | kHostTcp6;
            if (guest_.checksum) {
                wanted |= kGuestChecksum | (guest_.tcp4 ? kGuestTcp4 : 0) | (guest_.tcp6 ? kGuestTcp6 : 0);
            }
            features_ = value & wanted;
            if ((features_ & kHostChecksum) == 0) features_ &= ~(kHostTcp4 | kHostTcp6);
            if ((features_ & kGuestChecksum) == 0) features_ &= ~(kGuestTcp4 | kGuestTcp6);
            step_ = Step::protocol;
            return ask(kGetProtocolFeatures);
        }
        case Step::protocol: {
            if (message.request != kGetProtocolFeatures) return unasked();
            const uint64_t needed = memory_->pairs() > 1 ? kProtocolManyQueues : 0;
            if ((value & needed) != needed) {
                return Error{ENOTSUP, fmt::format("the vhost-user device on {} takes one queue only", path_)};
            }
            Message set{.request = kSetProtocolFeatures};
            set.add(needed);
            TRY(send(set));
            TRY(hand_over_rings());
            step_ = Step::rings;
            // It answers in turn: so everything before was taken.
            return ask(kGetFeatures);
        }
        case Step::rings: break;
    }
    if (message.request != kGetFeatures) return unasked();
    step_ = Step::up;
    events_.up({.checksum = (features_ & kHostChecksum) != 0,
                .tcp4 = (features_ & kHostTcp4) != 0,
                .tcp6 = (features_ & kHostTcp6) != 0});
    return {};
}

Result<void> Server::hand_over_rings() {
    TRY(ask(kSetOwner));
    Message features{.request = kSetFeatures};
    features.add(features_);
    TRY(send(features));
    Message table{.request = kSetMemoryTable};
    table.add(1, 0);  // one region: its address for rings, its size, its address for us, where it begins in the file
    table.add(RingMemory::kBase);
    table.add(memory_->bytes());
    table.add(RingMemory::kBase);
    table.add(0);
    TRY(send(table, memory_->fd()));
    for (uint32_t i = 0; i < memory_->pairs(); ++i) {
        RingPair& pair = memory_->pair(i);
        TRY(describe_ring(2 * i, pair.to_driver, RingMemory::address_of(i, offsetof(RingPair, to_driver)), notify_[i]));
        TRY(describe_ring(2 * i + 1, pair.to_device, RingMemory::address_of(i, offsetof(RingPair, to_device)), notify_[i]));
    }
    for (uint32_t i = 0; i < 2 * memory_->pairs(); ++i) {
        Message enable{.request = kSetRingEnable};
        enable.add(i, 1);
        TRY(send(enable));
    }
    return {};
}

Result<void> Server::describe_ring(uint32_t number, Ring& ring, size_t address, int event) {
    Message slots{.request = kSetRingSlots};
    slots.add(number, kSlots);
    TRY(send(slots));
    // Behind what an earlier device has given back.
    Message base{.request = kSetRingBase};
    base.add(number, std::atomic_ref(ring.used.index).load(std::memory_order_acquire));
    TRY(send(base));
    Message where{.request = kSetRingAddress};
    where.add(number, 0);
    where.add(address + offsetof(Ring, descriptors));
    where.add(address + offsetof(Ring, used));
    where.add(address + offsetof(Ring, available));
    where.add(0);
    TRY(send(where));
    Message kick{.request = kSetRingKick};
    kick.add(number | kNoDescriptor);
    TRY(send(kick));
    Message call{.request = kSetRingCall};
    call.add(number);
    return send(call, event);
}

Result<void> Server::ask(uint32_t request) { return send(Message{.request = request}); }

Result<void> Server::send(const Message& message, int descriptor) {
    const auto bytes = std::as_bytes(std::span(&message, 1)).first(Message::kHeader + message.size);
    const auto sent = descriptor < 0 ? channel::send(connection_.get(), bytes, {})
                                     : channel::send(connection_.get(), bytes, std::span(&descriptor, 1));
    if (!sent) return Error{sent.error().code, "hand rings to the vhost-user device on " + path_};
    return {};
}

}  // namespace ringback::bridge::vhost
