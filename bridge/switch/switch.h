// SPDX-License-Identifier: Apache-2.0
//
// Switch: a learning Ethernet switch with VLANs (IEEE 802.1Q-2018, clause 8). It decides; it moves nothing.
//
// A frame's head is shown to it once, in private memory, and it says where the frame goes: to one port, to all of its VLAN,
// or nowhere and why. Whoever asked copies the rest without looking at it again. So it knows no rings and no guests, and runs
// as well under a test's random frames.
//
// Rules per port, all kept on the way in: the source address is the port's own unless it may have any; the IP addresses are
// those it was given, if it was given any; VLANs; so many bytes a second; so many flooded frames a second. On the way out only
// the VLAN counts.
//
// Thread: one owner. classify() does not allocate, lock or log.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bridge/switch/mac_table.h"
#include "bridge/switch/source_filter.h"
#include "runtime/result.h"

namespace ringback::bridge {

inline constexpr uint16_t kDefaultVlan = 1;
inline constexpr uint16_t kLastVlan = 4094;

struct PortRules {
    MacAddress address{};
    bool any_source = false;          // may send from every address, and is learned
    uint16_t vlan = kDefaultVlan;     // of untagged frames
    std::vector<uint16_t> trunks{};   // whose frames carry a tag
    std::vector<IpNetwork> given{};   // empty: any IP address
    uint64_t bytes_per_second = 0;    // more is dropped; 0: no limit
    uint64_t floods_per_second = 0;   // broadcast, multicast, unknown destination; 0: no limit
};

struct PortCounters {
    uint64_t forwarded = 0;
    uint64_t flooded = 0;
    uint64_t malformed = 0;
    uint64_t spoofed = 0;    // an address that is not the port's
    uint64_t vlan_refused = 0;
    uint64_t policed = 0;
    uint64_t storm = 0;      // flooded too much
    uint64_t nowhere = 0;    // to itself, or to what a switch keeps to itself
    uint64_t unlearned = 0;  // no room for its address
};

enum class Fate : uint8_t { dropped, one, all };

struct Verdict {
    Fate fate = Fate::dropped;
    PortIndex to = 0;   // of one
    uint16_t vlan = 0;
    uint8_t tag = 0;    // bytes of the tag it carries: 0 or 4
    bool named = false; // the tag names its VLAN (and not only a priority): it may leave as it is where tags are worn
};

enum class Form : uint8_t { none, untagged, tagged };

class Switch {
  public:
    static constexpr size_t kMaxPorts = 4096;

    // DPDK runs.
    [[nodiscard]] static Result<std::unique_ptr<Switch>> create(const MacTable::Settings& settings);
    ~Switch();
    Switch(const Switch&) = delete;
    Switch& operator=(const Switch&) = delete;

    // EEXIST: another port has that address in one of these VLANs: holder().
    [[nodiscard]] Result<PortIndex> add_port(const PortRules& rules, uint64_t now);
    [[nodiscard]] std::optional<PortIndex> holder(const PortRules& rules) const;
    void remove_port(PortIndex port);
    // `head`: as much of the frame as is known, at least its headers; `size`: the whole frame's.
    [[nodiscard]] Verdict classify(PortIndex from, std::span<const std::byte> head, uint32_t size, uint64_t now);
    // How frames of this VLAN leave by this port.
    [[nodiscard]] Form form(PortIndex to, uint16_t vlan) const;
    [[nodiscard]] const std::vector<PortIndex>& ports() const { return used_; }
    [[nodiscard]] const PortCounters& counters(PortIndex port) const;
    [[nodiscard]] const MacTable& table() const { return *table_; }

  private:
    struct Port;
    explicit Switch(std::unique_ptr<MacTable> table);

    std::unique_ptr<MacTable> table_;
    std::vector<std::unique_ptr<Port>> ports_;  // by index; null: free
    std::vector<PortIndex> used_;
};

// "name[.VLAN][:TRUNK[:TRUNK...]]", the form of the stock vif-openvswitch script.
struct BridgeName {
    std::string name;
    uint16_t vlan = kDefaultVlan;
    bool vlan_named = false;
    std::vector<uint16_t> trunks;
};
[[nodiscard]] Result<BridgeName> parse_bridge_name(const std::string& text);

}  // namespace ringback::bridge
