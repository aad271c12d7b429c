// SPDX-License-Identifier: Apache-2.0
#include "netback/switch_port.h"

#include <fmt/format.h>

#include <algorithm>

#include "mac-pool/address.h"

namespace ringback::net {

namespace {

constexpr std::string_view kScript = "vif-ringback";

Result<bridge::MacAddress> parse_address(const std::string& text) {
    const auto mac = mac::parse_unicast(text);
    if (!mac) return Error{EINVAL, fmt::format("\"{}\" is no MAC address of a NIC", text)};
    bridge::MacAddress address{};
    for (size_t i = 0; i < address.size(); ++i) address[i] = static_cast<uint8_t>(mac.value().value >> (40 - 8 * i));
    return address;
}

}  // namespace

bool has_own_script(const NicNodes& nodes) {
    const size_t slash = nodes.script.rfind('/');
    return nodes.script.substr(slash == std::string::npos ? 0 : slash + 1) == kScript;
}

Result<SwitchPort> make_switch_port(const NicNodes& nodes, const Config& config) {
    const bridge::BridgeName name = TRY(bridge::parse_bridge_name(nodes.bridge));
    if (!config.has_switch(name.name)) {
        return Error{ENOENT, fmt::format("bridge \"{}\": there is no switch \"{}\"; [switch] names in {} has \"{}\", [ovs-dpdk] bridges \"{}\"",
                                         nodes.bridge, name.name, kConfigPath, config.switch_names, config.ovs_bridges)};
    }
    SwitchPort port{};
    port.name = Text<32>(name.name);
    port.address = TRY(parse_address(nodes.mac));
    port.any_source = config.switch_check_source == 0 ? 1 : 0;
    port.vlan = name.vlan;
    port.trunk_count = static_cast<uint16_t>(name.trunks.size());
    std::copy(name.trunks.begin(), name.trunks.end(), port.trunks.begin());
    const auto given = TRY(bridge::parse_networks(nodes.ip));
    if (given.size() > port.given.size()) {
        return Error{E2BIG, fmt::format("ip \"{}\": more than {} addresses", nodes.ip, port.given.size())};
    }
    port.given_count = static_cast<uint8_t>(given.size());
    std::copy(given.begin(), given.end(), port.given.begin());
    port.bytes_per_second = uint64_t{config.switch_kilobytes} * 1000;
    port.floods_per_second = config.switch_floods;
    port.table_entries = config.switch_table;
    port.ageing_s = config.switch_ageing;
    return port;
}

}  // namespace ringback::net
