// SPDX-License-Identifier: Apache-2.0
#include "netback/tap_port.h"

#include <fmt/format.h>
#include <unistd.h>

#include "runtime/log.h"

namespace ringback::net {

namespace {

// The largest address that is no broadcast: a bridge never takes it for its own.
constexpr bridge::MacAddress kPortAddress{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff};

}  // namespace

TapPort::TapPort(const PortTools& tools, const xen::DeviceId& id, const NicNodes& nodes)
    : tools_(tools), owner_(id.text()), name_(fmt::format("vif{}.{}", id.domid, id.devid)), renamed_(nodes.vifname) {}

void TapPort::open(bool on_network, Done done) {
    const auto opened = try_open(on_network);
    if (!opened) tap_.reset();
    done(opened);
}

Result<void> TapPort::try_open(bool on_network) {
    // One that an earlier life of ours has left may have been renamed by the hotplug script since.
    const bool was_renamed = !renamed_.empty() && on_network &&
                             ::access((tools_.sysfs + "/class/net/" + renamed_ + "/tun_flags").c_str(), F_OK) == 0;
    tap_ = TRY(bridge::Tap::open(was_renamed ? renamed_ : name_));
    return tools_.links.change(tap_->index(), {.address = kPortAddress,
                                               .mtu = {},
                                               .queue_length = tools_.config.queue_length,
                                               .alias = "ringback " + owner_,
                                               .up = {}});
}

void TapPort::close(Done done) {
    Result<void> removed;
    // It may have gone by itself: somebody deleted it.
    if (tap_) removed = tap_->remove(tools_.links);
    tap_.reset();
    done(!removed && removed.error().code == ENODEV ? Result<void>() : removed);
}

Result<void> TapPort::connect(Connect& offer, std::vector<UniqueFd>& descriptors) {
    offer.kind = PortKind::tap;
    TRY(tap_->set_queues(offer.queue_count));
    TRY(tap_->set_offloads({.checksum = offer.csum_blank4 != 0 || offer.csum_blank6 != 0,
                            .tcp4 = offer.gso_tcp4 != 0,
                            .tcp6 = offer.gso_tcp6 != 0}));
    for (const UniqueFd& queue : tap_->queues()) descriptors.push_back(TRY(duplicate(queue.get())));
    return {};
}

Port::Adopted TapPort::adopt(const Connect& parameters, std::vector<UniqueFd> descriptors) {
    if (parameters.kind != PortKind::tap) return Adopted::no;
    auto tap = bridge::Tap::adopt(std::move(descriptors));
    if (!tap) return Adopted::no;
    tap_ = std::move(tap).value();
    return Adopted::yes;
}

void TapPort::set_carrier(bool on) {
    const auto carrier = tap_ ? tap_->set_carrier(on) : Result<void>();
    if (on && !carrier && limiter_.allow()) log::warning("{}: {}", owner_, carrier.error().message);
}

void TapPort::rings_gone() {
    if (!tap_) return;
    (void)tap_->set_carrier(false);
    (void)tap_->set_queues(1);
}

std::string TapPort::interface() const {
    if (!tap_) return "";
    const auto name = tap_->name();
    return name ? name.value() : "";
}

}  // namespace ringback::net
