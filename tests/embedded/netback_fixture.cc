// SPDX-License-Identifier: Apache-2.0
//
// See netback_fixture.h.
#include "netback_fixture.h"

#include <linux/if_packet.h>
#include <arpa/inet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch_test_macros.hpp>

namespace ringback::test {

namespace {

constexpr uint16_t kOurType = 0x88b5;

std::vector<std::byte> our_packet(size_t size, uint8_t first) {
    std::vector<std::byte> packet(size);
    for (size_t i = 0; i < size; ++i) packet[i] = static_cast<std::byte>(first + i * 3);
    std::fill_n(packet.begin(), 6, std::byte{0xff});
    std::fill_n(packet.begin() + 6, 6, std::byte{0x02});
    packet[12] = std::byte{kOurType >> 8};
    packet[13] = std::byte{kOurType & 0xff};
    return packet;
}

}  // namespace

void enter_network_namespace() {
    if (::unshare(CLONE_NEWNET) != 0) SKIP("needs the right to make a network namespace");
    if (::access("/dev/net/tun", R_OK | W_OK) != 0) SKIP("needs /dev/net/tun");
}

NetDaemon::NetDaemon(const CoreProcess& core, const NetSettings& settings)
    : DaemonProcess(core, "netbackd",
                    settings.lines + "[vif]\nmax_queues = 4\n[switch]\nnames = \"lan0\"\n" + settings.switch_lines,
                    {RINGBACK_NETBACKD, "--spawn-worker", "--worker-program",
                     settings.worker_program.empty() ? RINGBACK_NETBACK_WORKER : settings.worker_program}) {
    start();
}

nlohmann::json NetDaemon::vif(uint32_t handle, int domid) const {
    const nlohmann::json answer = ask({{"command", "status"}});
    for (const auto& guest : answer["guests"]) {
        if (domid >= 0 && guest["domid"] != domid) continue;
        for (const auto& vif : guest["vifs"]) {
            if (vif["device"].get<std::string>().ends_with("/" + std::to_string(handle))) return vif;
        }
    }
    return {};
}

pid_t NetDaemon::worker() const { return ask({{"command", "status"}})["worker_pid"]; }

HostPort::HostPort(const std::string& interface) : socket_(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0)) {
    REQUIRE(socket_);
    ifreq request{};
    interface.copy(request.ifr_name, sizeof(request.ifr_name) - 1);
    REQUIRE(::ioctl(socket_.get(), SIOCGIFFLAGS, &request) == 0);
    request.ifr_flags |= IFF_UP;
    REQUIRE(::ioctl(socket_.get(), SIOCSIFFLAGS, &request) == 0);
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(kOurType);
    address.sll_ifindex = static_cast<int>(::if_nametoindex(interface.c_str()));
    REQUIRE(::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
}

void HostPort::send(const std::vector<std::byte>& packet) const {
    // A device whose carrier just came on may still refuse for a moment.
    REQUIRE(eventually([&] { return ::send(socket_.get(), packet.data(), packet.size(), 0) > 0; }));
}

std::vector<std::byte> HostPort::receive(int timeout_ms) const {
    std::vector<std::byte> packet(70000);
    for (;;) {
        pollfd readable{socket_.get(), POLLIN, 0};
        if (::poll(&readable, 1, timeout_ms) != 1) return {};
        sockaddr_ll from{};
        socklen_t length = sizeof from;
        const ssize_t got = ::recvfrom(socket_.get(), packet.data(), packet.size(), 0,
                                       reinterpret_cast<sockaddr*>(&from), &length);
        if (got < 0) {
            if (errno == ENETDOWN) continue;  // told once after a change of the link
            return {};
        }
        if (from.sll_pkttype == PACKET_OUTGOING) continue;
        packet.resize(static_cast<size_t>(got));
        return packet;
    }
}

NetBed::NetBed(const NetSettings& settings) : t({}, {.memory_mib = 64}), daemon(t.core, settings) {}

std::unique_ptr<frontend::Netfront> NetBed::front(frontend::NetOptions options) const {
    options.domid = t.domid;
    return must(frontend::Netfront::create(options));
}

std::string NetBed::back(uint32_t handle) const {
    return "/local/domain/0/backend/vif/" + std::to_string(t.domid) + "/" + std::to_string(handle);
}
std::string NetBed::front_path(uint32_t handle) const {
    return "/local/domain/" + std::to_string(t.domid) + "/device/vif/" + std::to_string(handle);
}
std::string NetBed::interface(uint32_t handle) const {
    return "vif" + std::to_string(t.domid) + "." + std::to_string(handle);
}
std::string NetBed::node(const std::string& path) { return store.get(path).value_or(""); }

void NetBed::wait_node(const std::string& path, const std::string& value) {
    INFO(path << " shall become " << value << " and is " << node(path));
    must(store.wait_for(
        path, [&](const std::optional<std::string>& now) { return now.value_or("") == value; }, kPatienceMs));
}

void NetBed::check_traffic(frontend::Netfront& front, const std::string& interface, size_t size) {
    const HostPort host(interface);
    frontend::NetQueue& queue = front.queue(0);
    const auto up = our_packet(size, 1);
    const auto down = our_packet(size, 9);
    REQUIRE(queue.send(up));
    queue.push();
    CHECK(host.receive() == up);
    host.send(down);
    std::vector<std::vector<std::byte>> got;
    const auto take = [&](std::span<const std::byte> packet, const frontend::PacketInfo&) {
        if (packet.size() > 14 && packet[12] == down[12] && packet[13] == down[13]) {
            got.emplace_back(packet.begin(), packet.end());
        }
    };
    REQUIRE(eventually([&] {
        for (size_t i = 0; i < front.queue_count(); ++i) {
            front.queue(i).reap(take);
            front.queue(i).push();
            REQUIRE(front.queue(i).broken() == "");
        }
        return !got.empty();
    }));
    CHECK(got[0] == down);
}

}  // namespace ringback::test
