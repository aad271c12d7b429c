// SPDX-License-Identifier: Apache-2.0
#include "bridge/switch/switch.h"

#include <fmt/format.h>

#include <algorithm>
#include <bitset>
#include <charconv>
#include <cstring>

#include "bridge/switch/meter.h"

namespace ringback::bridge {

namespace {

constexpr size_t kEthernetHeader = 14;
constexpr size_t kTag = 4;
constexpr uint16_t kVlanType = 0x8100;
constexpr uint16_t kServiceVlanType = 0x88a8;  // 802.1ad
constexpr uint64_t kLargestFrame = 65535 + 18;
// A burst of a tenth of a second, and of one whole frame at least.
constexpr uint64_t kBurstsPerSecond = 10;

// What a flooded frame costs those who get it: a large one is to be copied, or cut in many.
constexpr uint32_t flood_cost(uint64_t size) { return static_cast<uint32_t>(1 + size / 2048); }

uint16_t word_at(std::span<const std::byte> frame, size_t at) {
    return static_cast<uint16_t>(std::to_integer<unsigned>(frame[at]) << 8 | std::to_integer<unsigned>(frame[at + 1]));
}
MacAddress address_at(std::span<const std::byte> frame, size_t at) {
    MacAddress address;
    std::memcpy(address.data(), frame.data() + at, address.size());
    return address;
}
// Six bytes are for the compiler a call of memcmp.
bool same(const MacAddress& a, const MacAddress& b) {
    const auto head = [](const MacAddress& address) {
        uint32_t bytes;
        std::memcpy(&bytes, address.data(), sizeof bytes);
        return bytes;
    };
    return head(a) == head(b) && a[4] == b[4] && a[5] == b[5];
}
bool group(const MacAddress& address) { return (address[0] & 1) != 0; }

// 802.1Q, 8.6.3: never forwarded by a bridge (spanning tree, pause, link discovery).
bool reserved(const MacAddress& address) {
    constexpr std::array<uint8_t, 5> kReserved{0x01, 0x80, 0xc2, 0x00, 0x00};
    return std::equal(kReserved.begin(), kReserved.end(), address.begin()) && address[5] < 16;
}

std::vector<uint16_t> vlans_of(const PortRules& rules) {
    std::vector<uint16_t> vlans = rules.trunks;
    if (rules.vlan != 0) vlans.push_back(rules.vlan);
    return vlans;
}

}  // namespace

struct Switch::Port {
    MacAddress address{};
    bool any_source = false;
    uint16_t vlan = 0;
    std::bitset<4096> tagged;
    std::vector<IpNetwork> given;
    Meter police;
    Meter storm;
    MacTable::Hint last;
    PortCounters counters;
};

Switch::Switch(std::unique_ptr<MacTable> table) : table_(std::move(table)) {}
Switch::~Switch() = default;

Result<std::unique_ptr<Switch>> Switch::create(const MacTable::Settings& settings) {
    return std::unique_ptr<Switch>(new Switch(TRY(MacTable::create(settings))));
}

std::optional<PortIndex> Switch::holder(const PortRules& rules) const {
    for (const uint16_t vlan : vlans_of(rules)) {
        if (const auto port = table_->pinned_by(mac_key(rules.address, vlan))) return port;
    }
    return std::nullopt;
}

Result<PortIndex> Switch::add_port(const PortRules& rules, uint64_t now) {
    const auto free = std::find(ports_.begin(), ports_.end(), nullptr);
    const auto index = static_cast<size_t>(free - ports_.begin());
    if (index >= kMaxPorts) return os_error(ENOSPC, fmt::format("add a port to a switch that has {}", kMaxPorts));
    if (holder(rules)) {
        return os_error(EEXIST, fmt::format("give a port the address {:02x}, which another one has", fmt::join(rules.address, ":")));
    }
    auto port = std::make_unique<Port>();
    port->address = rules.address;
    port->any_source = rules.any_source;
    port->vlan = rules.vlan;
    for (const uint16_t vlan : rules.trunks) port->tagged.set(vlan & 0xfff);
    port->given = rules.given;
    port->police = TRY(Meter::create(rules.bytes_per_second,
                                     std::max(rules.bytes_per_second / kBurstsPerSecond, kLargestFrame), now));
    port->storm = TRY(Meter::create(rules.floods_per_second,
                                    std::max<uint64_t>(rules.floods_per_second / kBurstsPerSecond, flood_cost(kLargestFrame)),
                                    now));
    const auto number = static_cast<PortIndex>(index);
    for (const uint16_t vlan : vlans_of(rules)) {
        if (table_->pin(mac_key(rules.address, vlan), number)) continue;
        table_->forget(number);
        return os_error(ENOSPC, fmt::format("give a port the address {:02x} in VLAN {}: the table is full of addresses "
                                            "of NICs", fmt::join(rules.address, ":"), vlan));
    }
    if (index == ports_.size()) ports_.emplace_back();
    ports_[index] = std::move(port);
    used_.push_back(number);
    return number;
}

void Switch::remove_port(PortIndex port) {
    table_->forget(port);
    ports_[port].reset();
    std::erase(used_, port);
}

const PortCounters& Switch::counters(PortIndex port) const { return ports_[port]->counters; }

Form Switch::form(PortIndex to, uint16_t vlan) const {
    const Port& port = *ports_[to];
    if (port.vlan == vlan) return Form::untagged;
    return port.tagged.test(vlan) ? Form::tagged : Form::none;
}

Verdict Switch::classify(PortIndex from, std::span<const std::byte> head, uint32_t size, uint64_t now) {
    Port& port = *ports_[from];
    const auto drop = [](uint64_t& counter) {
        ++counter;
        return Verdict{};
    };
    if (head.size() < kEthernetHeader) return drop(port.counters.malformed);
    const MacAddress destination = address_at(head, 0);
    const MacAddress source = address_at(head, 6);
    if (group(source)) return drop(port.counters.malformed);
    if (!port.any_source && !same(source, port.address)) return drop(port.counters.spoofed);

    Verdict verdict{.fate = Fate::dropped, .to = 0, .vlan = port.vlan, .tag = 0, .named = false};
    uint16_t type = word_at(head, 12);
    if (type == kVlanType) {
        if (head.size() < kEthernetHeader + kTag) return drop(port.counters.malformed);
        const uint16_t named = word_at(head, 14) & 0xfff;
        verdict.tag = kTag;
        verdict.named = named != 0;
        if (verdict.named && !port.tagged.test(named)) return drop(port.counters.vlan_refused);
        if (verdict.named) verdict.vlan = named;
        type = word_at(head, 16);
        // Where this tag is taken off, a second one would be the receiver's to believe.
        if (type == kVlanType || type == kServiceVlanType) return drop(port.counters.vlan_refused);
    }
    if (verdict.vlan == 0) return drop(port.counters.vlan_refused);
    if (!port.given.empty() && !source_allowed(head, kEthernetHeader + verdict.tag, type, port.address, port.given)) {
        return drop(port.counters.spoofed);
    }
    if (group(destination) && reserved(destination)) return drop(port.counters.nowhere);
    if (!port.police.passes(size, now)) return drop(port.counters.policed);
    if (port.any_source) {
        const auto learned = table_->learn(mac_key(source, verdict.vlan), from, now);
        if (learned == MacTable::Learned::pinned_elsewhere) return drop(port.counters.spoofed);
        if (learned == MacTable::Learned::full) ++port.counters.unlearned;
    }
    if (!group(destination)) {
        if (const auto to = table_->find(mac_key(destination, verdict.vlan), now, port.last)) {
            if (*to == from) return drop(port.counters.nowhere);
            ++port.counters.forwarded;
            verdict.fate = Fate::one;
            verdict.to = *to;
            return verdict;
        }
    }
    if (!port.storm.passes(flood_cost(size), now)) return drop(port.counters.storm);
    ++port.counters.flooded;
    verdict.fate = Fate::all;
    return verdict;
}

Result<BridgeName> parse_bridge_name(const std::string& text) {
    constexpr size_t kMostTrunks = 32;
    BridgeName parsed;
    const auto vlan = [&](std::string_view digits) -> Result<uint16_t> {
        unsigned value = 0;
        const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
        if (error != std::errc() || stop != digits.data() + digits.size() || value == 0 || value > kLastVlan) {
            return Error{EINVAL, fmt::format("bridge \"{}\": \"{}\" is no VLAN (1 to {})", text, digits, kLastVlan)};
        }
        return static_cast<uint16_t>(value);
    };
    std::string_view rest = text;
    size_t end = rest.find_first_of(".:");
    parsed.name = rest.substr(0, end);
    if (end != std::string_view::npos && rest[end] == '.') {
        rest.remove_prefix(end + 1);
        end = rest.find(':');
        parsed.vlan = TRY(vlan(rest.substr(0, end)));
        parsed.vlan_named = true;
    }
    while (end != std::string_view::npos) {
        rest.remove_prefix(end + 1);
        end = rest.find(':');
        parsed.trunks.push_back(TRY(vlan(rest.substr(0, end))));
        if (parsed.trunks.size() > kMostTrunks) {
            return Error{EINVAL, fmt::format("bridge \"{}\": more than {} trunk VLANs", text, kMostTrunks)};
        }
    }
    return parsed;
}

}  // namespace ringback::bridge
