// SPDX-License-Identifier: Apache-2.0
#include "netback/worker/fabric.h"

#include <fmt/format.h>

#include <algorithm>

#include "bridge/switch/dpdk.h"

namespace ringback::net::worker {

namespace {

constexpr size_t kMegabytes = 48;
constexpr uint32_t kBuffers = 8192;  // of 2 KiB
constexpr uint64_t kSecond = 1'000'000'000;

}  // namespace

Result<void> Fabric::prepare() {
    if (round_) return {};
    TRY(bridge::start_dpdk(kMegabytes));
    pool_ = TRY(bridge::PacketPool::create(kBuffers));
    round_ = std::make_unique<Round>();
    return {};
}

Result<SwitchLink> Fabric::join(const SwitchPort& port, VifContext& vif) {
    TRY(prepare());
    const std::string name = port.name.str();
    if (!nets_.contains(name)) {
        auto made = std::make_unique<Net>();
        made->decide = TRY(bridge::Switch::create({.entries = port.table_entries,
                                                   .per_port = std::max<uint32_t>(port.table_entries / 4, 1),
                                                   .ageing_ns = port.ageing_s * kSecond}));
        nets_.emplace(name, std::move(made));
    }
    Net& net = *nets_.at(name);
    bridge::PortRules rules{.address = port.address,
                            .any_source = port.any_source != 0,
                            .vlan = port.vlan,
                            .bytes_per_second = port.bytes_per_second,
                            .floods_per_second = port.floods_per_second};
    rules.trunks.assign(port.trunks.begin(), port.trunks.begin() + std::min<size_t>(port.trunk_count, port.trunks.size()));
    rules.given.assign(port.given.begin(), port.given.begin() + std::min<size_t>(port.given_count, port.given.size()));
    if (const auto holder = net.decide->holder(rules)) {
        const VifContext& other = *net.vifs[*holder];
        return Error{EEXIST, fmt::format("the address {:02x} is in use on switch \"{}\" by vif/{}/{}", fmt::join(rules.address, ":"), name,
                                         other.domid, other.handle)};
    }
    const auto index = net.decide->add_port(rules, monotonic_ns());
    if (!index) {
        if (net.decide->ports().empty()) nets_.erase(name);
        return index.error();
    }
    if (net.vifs.size() <= index.value()) net.vifs.resize(index.value() + size_t{1});
    net.vifs[index.value()] = &vif;
    return SwitchLink{net.decide.get(), &net.vifs, pool_.get(), round_.get(), index.value()};
}

void Fabric::leave(const SwitchLink& link) {
    link.decide->remove_port(link.port);
    (*link.vifs)[link.port] = nullptr;
    if (!link.decide->ports().empty()) return;
    std::erase_if(nets_, [&link](const auto& net) { return net.second->decide.get() == link.decide; });
}

void Fabric::list(const TableQuery& query, TablePage& page) const {
    page = {};
    const auto found = nets_.find(query.name.str());
    if (found == nets_.end()) return;  // no port, so nobody is there
    page.cursor = query.cursor;
    for (const auto& entry : found->second->decide->table().list(monotonic_ns(), page.entries.size(), page.cursor)) {
        const VifContext* vif = found->second->vifs[entry.port];
        if (vif == nullptr) continue;
        page.entries[page.count++] = {entry.address, entry.vlan, vif->domid, static_cast<uint8_t>(entry.pinned ? 1 : 0), 0,
                                      vif->handle, static_cast<uint32_t>(entry.age_ns / kSecond)};
    }
}

}  // namespace ringback::net::worker
