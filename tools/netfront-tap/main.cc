// SPDX-License-Identifier: Apache-2.0
//
// netfront-tap: a guest of the embedded core whose NIC is a TAP where this program runs, usually in a network namespace of
// its own. So a whole Linux TCP/IP stack is the guest: ping, iperf3, ssh go through the guest's rings and Ringback.
//
// What the stack leaves undone (checksums, segments) is told to the backend as Linux's netfront tells it, and the other way
// round. Ends on SIGTERM, with its parent, or when the backend takes the NIC away.
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cstring>

#include "bridge/tap.h"
#include "bridge/vnet_header.h"
#include "netback/worker/offload.h"
#include "runtime/log.h"
#include "tools/frontend/netfront.h"

namespace {

using namespace ringback;
using bridge::VnetHeader;
using xen::netif::GsoType;

constexpr size_t kLargest = 65536;
constexpr int kPacketsAtOnce = 64;

class Pump {
  public:
    Pump(frontend::Netfront& front, int tap) : front_(front), tap_(tap), buffer_(sizeof(VnetHeader) + kLargest) {}

    // From the stack to the guest's ring. False: the ring has no room now.
    bool send_some() {
        for (int i = 0; i < kPacketsAtOnce; ++i) {
            if (held_ == 0) {
                const ssize_t got = ::read(tap_, buffer_.data(), buffer_.size());
                if (got < static_cast<ssize_t>(sizeof(VnetHeader))) return true;
                held_ = static_cast<size_t>(got);
            }
            VnetHeader header;
            std::memcpy(&header, buffer_.data(), sizeof header);
            frontend::PacketInfo info;
            info.csum_blank = (header.flags & bridge::kVnetNeedsCsum) != 0;
            const int type = header.gso_type & ~bridge::kVnetGsoEcn;
            if (type != bridge::kVnetGsoNone) {
                info.gso = type == bridge::kVnetGsoTcp4 ? GsoType::tcp4 : GsoType::tcp6;
                info.gso_size = header.gso_size;
            }
            const std::span<const std::byte> packet(buffer_.data() + sizeof header, held_ - sizeof header);
            if (!queue().send(packet, info)) return false;
            held_ = 0;
        }
        return true;
    }

    // From the guest's ring to the stack.
    void receive() {
        queue().reap([this](std::span<const std::byte> packet, const frontend::PacketInfo& info) {
            std::memcpy(out_.data() + sizeof(VnetHeader), packet.data(), packet.size());
            const auto header = net::worker::to_vnet({out_.data() + sizeof(VnetHeader), packet.size()},
                                                     {info.csum_blank, info.gso, info.gso_size});
            if (!header) return;
            std::memcpy(out_.data(), &*header, sizeof *header);
            (void)!::write(tap_, out_.data(), sizeof *header + packet.size());
        });
        queue().push();
    }
    frontend::NetQueue& queue() { return front_.queue(0); }

  private:
    frontend::Netfront& front_;
    int tap_;
    size_t held_ = 0;  // read from the TAP, waiting for room
    std::vector<std::byte> buffer_;
    std::array<std::byte, sizeof(VnetHeader) + kLargest> out_;
};

Result<void> serve(const frontend::NetOptions& options, const std::string& interface, const std::string& mac) {
    sigset_t signals;
    ::sigemptyset(&signals);
    ::sigaddset(&signals, SIGTERM);
    ::sigaddset(&signals, SIGINT);
    if (::sigprocmask(SIG_BLOCK, &signals, nullptr) != 0) return os_error("block signals");
    const UniqueFd ending(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!ending) return os_error("create a signal descriptor");

    bridge::Links links = TRY(bridge::Links::open());
    bridge::Tap tap = TRY(bridge::Tap::open(interface));
    bridge::MacAddress address{};
    if (std::sscanf(mac.c_str(), "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &address[0], &address[1], &address[2], &address[3],
                    &address[4], &address[5]) != 6) {
        return Error{EINVAL, "\"" + mac + "\" is no MAC address"};
    }
    TRY(links.change(tap.index(), {.address = address, .mtu = {}, .queue_length = {}, .alias = {}, .up = {}}));
    TRY(tap.set_offloads({.checksum = options.csum4, .tcp4 = options.gso, .tcp6 = options.gso}));
    auto front = TRY(frontend::Netfront::create(options));
    TRY(front->attach());
    TRY(tap.set_carrier(true));
    fmt::print("connected\n");
    std::fflush(stdout);

    Pump pump(*front, tap.queues().front().get());
    bool room = true;
    for (;;) {
        frontend::NetQueue& queue = pump.queue();
        std::array<pollfd, 5> fds{{{queue.tx_fd(), POLLIN, 0},
                                   {queue.rx_fd(), POLLIN, 0},
                                   {room ? tap.queues().front().get() : -1, POLLIN, 0},
                                   {front->store_fd(), POLLIN, 0},
                                   {ending.get(), POLLIN, 0}}};
        if (::poll(fds.data(), fds.size(), -1) < 0 && errno != EINTR) return os_error("wait for packets");
        if (fds[4].revents != 0) break;
        if (fds[3].revents != 0 && front->follow_backend()) break;
        queue.clear_events();
        pump.receive();
        room = pump.send_some();
        queue.push();
        if (!queue.broken().empty()) return Error{EPROTO, "the backend broke the protocol: " + queue.broken()};
    }
    return tap.remove(links);
}

}  // namespace

int main(int argc, char** argv) {
    frontend::NetOptions options;
    std::string interface = "eth0";
    std::string mac = "00:16:3e:00:00:01";
    CLI::App app("A guest of the embedded core whose NIC is a TAP here.", "netfront-tap");
    app.add_option("--domid", options.domid, "The guest's domain")->required();
    app.add_option("--handle", options.handle, "Which of its NICs")->capture_default_str();
    app.add_option("--interface", interface, "Name of the TAP")->capture_default_str();
    app.add_option("--mac", mac, "Its address")->capture_default_str();
    bool plain = false;
    app.add_flag("--no-offloads", plain, "A frontend that takes and leaves no checksum blank and nothing to be cut in segments");
    CLI11_PARSE(app, argc, argv);
    if (plain) options.gso = options.csum4 = options.csum6 = options.scatter_gather = false;
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (const auto served = serve(options, interface, mac); !served) {
        log::error("{}", served.error().message);
        return 1;
    }
    return 0;
}
