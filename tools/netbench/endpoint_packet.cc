// SPDX-License-Identifier: Apache-2.0
//
// As good as a socket can be: many frames a call, past the queueing discipline, received from memory shared with the kernel
// (TPACKET_V2).
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <cstring>

#include "runtime/poll_policy.h"
#include "runtime/unique_fd.h"
#include "tools/netbench/endpoint.h"

namespace ringback::netbench {

namespace {

constexpr unsigned kSlotBytes = 2048;
constexpr unsigned kSlots = 4096;
constexpr unsigned kBlockBytes = 1U << 18;
constexpr size_t kAtOnce = 256;

class Packet : public Endpoint {
  public:
    Packet(UniqueFd sending, UniqueFd receiving, std::byte* ring)
        : sending_(std::move(sending)), receiving_(std::move(receiving)), ring_(ring) {}
    ~Packet() override { ::munmap(ring_, size_t{kSlotBytes} * kSlots); }

    size_t send(std::span<const Frame> frames) override {
        std::array<iovec, kBurst> parts;
        std::array<mmsghdr, kBurst> messages{};
        for (size_t i = 0; i < frames.size(); ++i) {
            parts[i] = {const_cast<std::byte*>(frames[i].data()), frames[i].size()};
            messages[i].msg_hdr.msg_iov = &parts[i];
            messages[i].msg_hdr.msg_iovlen = 1;
        }
        const int count = ::sendmmsg(sending_.get(), messages.data(), static_cast<unsigned>(frames.size()), MSG_DONTWAIT);
        return count < 0 ? 0 : static_cast<size_t>(count);
    }
    void receive(Tally& tally) override {
        const uint64_t now = monotonic_ns();
        for (size_t i = 0; i < kAtOnce; ++i) {
            auto& header = *reinterpret_cast<tpacket2_hdr*>(ring_ + size_t{kSlotBytes} * next_);
            std::atomic_ref<uint32_t> status(header.tp_status);
            if ((status.load(std::memory_order_acquire) & TP_STATUS_USER) == 0) return;
            tally.take({reinterpret_cast<const std::byte*>(&header) + header.tp_mac, header.tp_snaplen}, now);
            status.store(TP_STATUS_KERNEL, std::memory_order_release);
            next_ = (next_ + 1) % kSlots;
        }
    }

  private:
    UniqueFd sending_;
    UniqueFd receiving_;
    std::byte* ring_;
    size_t next_ = 0;
};

// Runs `body` in that namespace.
template <typename Body>
auto inside(const std::string& name_space, Body body) -> decltype(body()) {
    const UniqueFd home(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
    const std::string path = "/run/netns/" + name_space;
    const UniqueFd there(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!home || !there || ::setns(there.get(), CLONE_NEWNET) != 0) return os_error("enter " + path);
    auto result = body();
    if (::setns(home.get(), CLONE_NEWNET) != 0) return os_error("leave " + path);
    return result;
}

template <typename Value>
Result<void> set(const UniqueFd& socket, int option, const Value& value, const char* what) {
    if (::setsockopt(socket.get(), SOL_PACKET, option, &value, sizeof value) != 0) return os_error(std::string("set up a packet socket's ") + what);
    return {};
}

// `protocol`: 0 receives nothing.
Result<UniqueFd> open_socket(const std::string& device, uint16_t protocol) {
    UniqueFd socket(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) return os_error("make a packet socket");
    if (protocol != 0) {
        TRY(set(socket, PACKET_VERSION, int{TPACKET_V2}, "version"));
        TRY(set(socket, PACKET_IGNORE_OUTGOING, 1, "direction"));
        const tpacket_req ring{kBlockBytes, kSlotBytes * kSlots / kBlockBytes, kSlotBytes, kSlots};
        TRY(set(socket, PACKET_RX_RING, ring, "ring"));
    } else {
        TRY(set(socket, PACKET_QDISC_BYPASS, 1, "way"));
    }
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(protocol);
    address.sll_ifindex = static_cast<int>(::if_nametoindex(device.c_str()));
    if (address.sll_ifindex == 0 || ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
        return os_error("bind a packet socket to " + device);
    }
    return socket;
}

}  // namespace

Result<std::unique_ptr<Endpoint>> open_packet(const std::string& name_space, const std::string& device) {
    return inside(name_space, [&]() -> Result<std::unique_ptr<Endpoint>> {
        UniqueFd sending = TRY(open_socket(device, 0));
        UniqueFd receiving = TRY(open_socket(device, ETH_P_ALL));
        void* ring = ::mmap(nullptr, size_t{kSlotBytes} * kSlots, PROT_READ | PROT_WRITE, MAP_SHARED, receiving.get(), 0);
        if (ring == MAP_FAILED) return os_error("map the ring of a packet socket");
        return std::unique_ptr<Endpoint>(new Packet(std::move(sending), std::move(receiving), static_cast<std::byte*>(ring)));
    });
}

}  // namespace ringback::netbench
