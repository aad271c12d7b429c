// SPDX-License-Identifier: Apache-2.0
#include "netback/ovs_port.h"

#include <fmt/format.h>
#include <sys/eventfd.h>

#include <charconv>

#include "bridge/switch/switch.h"
#include "mac-pool/address.h"

namespace ringback::net {

using bridge::vhost::Abilities;
using bridge::vhost::RingMemory;

namespace {

constexpr unsigned kSmallestMtu = 68;
constexpr unsigned kLargestMtu = 9702;  // of DPDK's vhost ports in Open vSwitch

PortState state_of(const Abilities& can) {
    return {.up = 1,
            .checksum = static_cast<uint8_t>(can.checksum ? 1 : 0),
            .tcp4 = static_cast<uint8_t>(can.tcp4 ? 1 : 0),
            .tcp6 = static_cast<uint8_t>(can.tcp6 ? 1 : 0)};
}

}  // namespace

std::string vhost_path(const Config& config, const xen::DeviceId& id) {
    return fmt::format("{}/{}-{}-{}.vhost", config.journal_directory(), id.domid, id.kind, id.devid);
}

Result<bridge::OpenVSwitch::Port> make_ovs_port(const NicNodes& nodes, const xen::DeviceId& id, const Config& config) {
    const bridge::BridgeName name = TRY(bridge::parse_bridge_name(nodes.bridge));
    if (!mac::parse_unicast(nodes.mac)) return Error{EINVAL, fmt::format("\"{}\" is no MAC address of a NIC", nodes.mac)};
    // To ignore it would be to promise a filter that is not there.
    if (!nodes.ip.empty()) {
        return Error{ENOTSUP, fmt::format("ip \"{}\": only the built-in switch keeps a guest to addresses; on bridge \"{}\" that is for "
                                          "the flows of Open vSwitch", nodes.ip, name.name)};
    }
    bridge::OpenVSwitch::Port port{.name = fmt::format("vif{}.{}", id.domid, id.devid),
                                   .bridge = name.name,
                                   .socket = vhost_path(config, id),
                                   .owner = id.text(),
                                   .mac = nodes.mac,
                                   .vlan = name.vlan_named ? name.vlan : uint16_t{0},
                                   .trunks = name.trunks};
    if (nodes.mtu.empty()) return port;
    const char* const end = nodes.mtu.data() + nodes.mtu.size();
    const auto [stop, error] = std::from_chars(nodes.mtu.data(), end, port.mtu);
    if (error != std::errc() || stop != end || port.mtu < kSmallestMtu || port.mtu > kLargestMtu) {
        return Error{EINVAL, fmt::format("mtu \"{}\": Open vSwitch takes {} to {}", nodes.mtu, kSmallestMtu, kLargestMtu)};
    }
    return port;
}

OvsPort::OvsPort(const PortTools& tools, const xen::DeviceId& id, bridge::OpenVSwitch::Port port, std::function<void()> changed)
    : tools_(tools), owner_(id.text()), port_(std::move(port)), on_change_(std::move(changed)) {}

OvsPort::~OvsPort() {
    if (order_) tools_.open_vswitch->forget(*order_);
}

Result<void> OvsPort::listen() {
    server_ = TRY(bridge::vhost::Server::listen(
        tools_.loop, port_.socket,
        {.up = [this](const Abilities& can) { set_state(state_of(can)); },
         .down = [this] { set_state({}); },
         .bad =
             [this](const std::string& why) {
                 if (limiter_.allow()) log::warning("{}: {}", owner_, why);
             }}));
    return {};
}

void OvsPort::set_state(const PortState& state) {
    log::info("{}: {} {}", owner_, state.up != 0 ? "linked" : "not linked", place());
    state_ = state;
    changed_ = true;
    on_change_();
}

void OvsPort::open(bool on_network, Done done) {
    if (const auto listening = listen(); !listening) return done(listening);
    order_ = tools_.open_vswitch->add(port_, !on_network, [this, done = std::move(done)](const Result<void>& added) {
        order_.reset();
        if (!added) server_.reset();
        done(added);
    });
}

void OvsPort::close(Done done) {
    rings_gone();
    if (order_) tools_.open_vswitch->forget(*order_);
    order_ = tools_.open_vswitch->remove(port_.name, [this, done = std::move(done)](const Result<void>& removed) {
        order_.reset();
        server_.reset();
        done(removed);
    });
}

Result<void> OvsPort::make_rings(size_t queues) {
    rings_.emplace(TRY(RingMemory::create(queues)));
    for (size_t i = 0; i < queues; ++i) {
        events_.emplace_back(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        if (!events_.back()) return os_error("create an event descriptor");
    }
    return {};
}

void OvsPort::hand_over(const Connect& parameters) {
    std::vector<int> events;
    for (const UniqueFd& event : events_) events.push_back(event.get());
    server_->start(*rings_, std::move(events),
                   {.checksum = parameters.csum_blank4 != 0 || parameters.csum_blank6 != 0,
                    .tcp4 = parameters.gso_tcp4 != 0,
                    .tcp6 = parameters.gso_tcp6 != 0});
}

Result<void> OvsPort::connect(Connect& offer, std::vector<UniqueFd>& descriptors) {
    offer.kind = PortKind::vhost;
    // A successor of the worker goes on with the rings; any other connection gets new ones.
    if (offer.resumed == 0 || !rings_ || rings_->pairs() != offer.queue_count) {
        rings_gone();
        TRY(make_rings(offer.queue_count));
        hand_over(offer);
    }
    offer.port_state = state_;
    descriptors.push_back(TRY(duplicate(rings_->fd())));
    for (const UniqueFd& event : events_) descriptors.push_back(TRY(duplicate(event.get())));
    return keep(descriptors);
}

Result<void> OvsPort::keep(std::vector<UniqueFd>& descriptors) {
    if (server_ && server_->connection() >= 0) descriptors.push_back(TRY(duplicate(server_->connection())));
    return {};
}

Port::Adopted OvsPort::adopt(const Connect& parameters, std::vector<UniqueFd> descriptors) {
    const size_t queues = parameters.queue_count;
    if (parameters.kind != PortKind::vhost || descriptors.size() < queues + 1) return Adopted::no;
    auto rings = RingMemory::map(std::move(descriptors[0]), queues);
    if (!rings || !listen()) return Adopted::no;
    rings_.emplace(std::move(rings).value());
    for (size_t i = 0; i < queues; ++i) events_.push_back(std::move(descriptors[1 + i]));
    hand_over(parameters);
    const PortState& state = parameters.port_state;
    if (descriptors.size() > queues + 1 && state.up != 0) {
        server_->adopt(std::move(descriptors.back()),
                       {.checksum = state.checksum != 0, .tcp4 = state.tcp4 != 0, .tcp6 = state.tcp6 != 0});
    }
    changed_ = true;  // the worker may believe a link that is not there
    order_ = tools_.open_vswitch->add(port_, false, [this](const Result<void>& there) {
        order_.reset();
        if (!there) log::warning("{}: {}", owner_, there.error().message);
    });
    return Adopted::yes;
}

void OvsPort::set_carrier(bool on) {
    if (!on && server_) server_->stop();
    if (!on && state_.up != 0) state_ = {};
}

void OvsPort::rings_gone() {
    set_carrier(false);
    rings_.reset();
    events_.clear();
}

}  // namespace ringback::net
