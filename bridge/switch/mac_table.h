// SPDX-License-Identifier: Apache-2.0
//
// MacTable: which port an Ethernet address of a VLAN is behind (IEEE 802.1Q-2018, 8.8: the filtering database).
//
// Two kinds of entries. Pinned ones are the addresses of the guests' NICs, known from their configuration: they come and go
// with the port and nobody else can claim them. Learned ones are seen as a source on a port that may send from any address;
// they age, and one port can have only so many, so that a guest that makes addresses up fills its own share only.
//
// An old entry is not looked for by a timer: it counts as absent when it is found, and is removed when its place is needed.
//
// A pinned one always finds room: where there is none, what was learned longest ago goes. So whatever guests make up, a new
// NIC gets its place.
//
// The hash table is DPDK's (rte_hash), with a secret in its hash so that nobody can aim at one bucket, and with buckets that
// can be extended, so that any place that is free will do.
//
// Thread: one owner. find() and learn() do not allocate.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "bridge/link.h"
#include "runtime/result.h"

struct rte_hash;

namespace ringback::bridge {

using PortIndex = uint16_t;

// An address and a VLAN in one word.
using MacKey = uint64_t;
[[nodiscard]] inline MacKey mac_key(const MacAddress& address, uint16_t vlan) {
    MacKey key = 0;
    for (const uint8_t byte : address) key = key << 8 | byte;
    return key << 12 | vlan;
}

class MacTable {
  public:
    struct Settings {
        uint32_t entries = 4096;
        uint32_t per_port = 1024;  // learned ones
        uint64_t ageing_ns = 300'000'000'000;
    };
    struct Entry {
        MacAddress address{};
        uint16_t vlan = 0;
        PortIndex port = 0;
        bool pinned = false;
        uint64_t age_ns = 0;  // of a learned one: since it was seen last
    };
    // A port's last destination: spares the hash while it talks to the same one.
    struct Hint {
        MacKey key = ~MacKey{0};
        uint64_t generation = 0;
        int32_t place = -1;
    };
    enum class Learned : uint8_t { yes, pinned_elsewhere, full };

    [[nodiscard]] static Result<std::unique_ptr<MacTable>> create(const Settings& settings);
    ~MacTable();
    MacTable(const MacTable&) = delete;
    MacTable& operator=(const MacTable&) = delete;

    [[nodiscard]] std::optional<PortIndex> find(MacKey key, uint64_t now, Hint& hint) const;
    [[nodiscard]] Learned learn(MacKey key, PortIndex port, uint64_t now);
    [[nodiscard]] std::optional<PortIndex> pinned_by(MacKey key) const;
    // Nobody else has pinned it. False: the table is full of pinned ones.
    [[nodiscard]] bool pin(MacKey key, PortIndex port);
    void forget(PortIndex port);
    // Entries that count at this time, from the cursor on; the cursor is 0 again when there are no more.
    [[nodiscard]] std::vector<Entry> list(uint64_t now, size_t most, uint32_t& cursor) const;

  private:
    struct Value {
        MacKey key = 0;
        uint64_t seen = 0;
        PortIndex port = 0;
        bool used = false;
        bool pinned = false;
    };
    explicit MacTable(const Settings& settings) : settings_(settings), values_(settings.entries) {}
    [[nodiscard]] bool old(const Value& value, uint64_t now) const {
        return !value.pinned && now - value.seen >= settings_.ageing_ns && now > value.seen;
    }
    [[nodiscard]] Value* insert(MacKey key, PortIndex port);
    void erase(Value& value);
    void sweep(uint64_t now);
    void erase_oldest();
    uint32_t& learned_by(PortIndex port);

    const Settings settings_;
    rte_hash* hash_ = nullptr;
    std::vector<Value> values_;      // by the hash's place
    std::vector<uint32_t> learned_;  // by port
    uint64_t generation_ = 1;        // changes when a key may be in another place
    uint32_t swept_ = 0;
};

}  // namespace ringback::bridge
