// SPDX-License-Identifier: Apache-2.0
//
// The protocol between the supervisor (netbackd) and the switch worker (netback-worker).
//
// One SOCK_SEQPACKET connection, opened by the worker, so that a new supervisor is found again by a worker that outlived
// the old one. A datagram is one Message: fixed layout, no pointers, no variable parts, descriptors beside it
// (SCM_RIGHTS). Requests carry an id that the answer repeats. Both ends treat the other as hostile: a datagram of the
// wrong size, version or type ends the connection.
//
// One worker serves all guests, because packets cross between them. It has a vif only while that is connected. What reaches
// its network comes with it (PortKind); a switch is there as long as it has ports.
//   worker -> hello                              its pid, the protocol version, how many vifs it has
//   worker -> present [journal, port]            to a new supervisor: a vif it serves (connect: what it was told)
//   sup    -> connect [journal, port]            map these rings, bind these ports, serve               -> answer
//   sup    -> disconnect                         stop, unmap, unbind, close the port                    -> answer
//   sup    -> adjust [the port's connection]     the guest's rate or its wish for multicasts changed, or what its port takes
//                                                                                                      -> answer
//   sup    -> stats                              counters                                               -> answer
//   sup    -> table                              who is behind which port of a switch, some at a time   -> answer
//   worker -> vif_failed                         the frontend broke the protocol: the vif stopped serving. Who was not
//                                                there to hear it reads it in stats.failed, of any answer.
//   sup    -> quit                               no vifs are left: exit 0
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

#include "bridge/switch/switch.h"
#include "hypervisor/netif_abi.h"
#include "hypervisor/xenbus.h"

namespace ringback::net {

inline constexpr uint32_t kProtocolVersion = 3;
inline constexpr size_t kMaxQueues = 8;
inline constexpr size_t kMaxDescriptors = kMaxQueues + 3;
inline constexpr uint32_t kMaxTableEntries = 65536;  // of a switch

// Size of a vif's journal file (worker/journal.h).
inline constexpr size_t kJournalBytes = kMaxQueues * (64 + xen::netif::kTxEntries + 2 * xen::netif::kRxEntries) + 392;

enum class MessageType : uint16_t {
    hello = 1,
    present,
    connect,
    disconnect,
    adjust,
    stats,
    table,
    vif_failed,
    quit,
    answer,
};

// Fixed text in a message: NUL-terminated, cut off at the end.
template <size_t N>
struct Text {
    std::array<char, N> bytes{};
    Text() = default;
    Text(std::string_view text) {  // NOLINT: a conversion on purpose
        text = text.substr(0, N - 1);
        text.copy(bytes.data(), text.size());
    }
    [[nodiscard]] std::string str() const {
        const std::string_view all(bytes.data(), N);
        return std::string(all.substr(0, all.find('\0')));
    }
    bool operator==(const Text&) const = default;
};

struct Hello {
    uint32_t protocol;
    uint32_t pid;
    uint32_t vifs;
};

// What the guest may send: so many bytes in each interval; 0 bytes: as much as it likes.
struct Rate {
    uint64_t bytes;
    uint32_t interval_us;
    uint32_t padding;
};

struct QueueParameters {
    uint32_t tx_ring_ref;
    uint32_t rx_ring_ref;
    uint32_t tx_port;
    uint32_t rx_port;  // the same as tx_port: one event channel for both
};

// What a vif's packets go to and come from, and the descriptors that come with it.
enum class PortKind : uint8_t {
    tap,       // a TAP: a descriptor for each queue
    switched,  // the built-in switch: none
    vhost,     // rings that another process works on: their memory, and for each queue what that process notifies; and then,
               // if there is one, the connection to it, which is only kept for the next supervisor
};

// Of a TAP or of rings: whether frames are taken now, and with what still to be done to them.
struct PortState {
    uint8_t up;
    uint8_t checksum;
    uint8_t tcp4;
    uint8_t tcp6;
    bool operator==(const PortState&) const = default;
};

// How a vif is a port of a switch: what the administrator says, in bridge/switch/switch.h's words.
struct SwitchPort {
    Text<32> name;  // the switch's
    bridge::MacAddress address;
    uint8_t any_source;
    uint8_t given_count;
    uint16_t vlan;
    uint16_t trunk_count;
    std::array<uint16_t, 32> trunks;
    std::array<bridge::IpNetwork, 16> given;
    uint64_t bytes_per_second;
    uint64_t floods_per_second;
    uint32_t table_entries;  // of the switch: what its first port says
    uint32_t ageing_s;
    bool operator==(const SwitchPort&) const = default;
};

// What the frontend can take and do. All of it is what the frontend wrote, none of it is trusted.
struct Connect {
    uint16_t queue_count;    // 1..kMaxQueues
    uint8_t scatter_gather;  // a received packet may take several slots
    uint8_t gso_tcp4;
    uint8_t gso_tcp6;
    uint8_t csum_blank4;     // checksums of received packets may be left to the frontend
    uint8_t csum_blank6;
    uint8_t rx_notify;       // the frontend tells when it has given more buffers
    uint8_t resumed;         // an earlier worker served these rings: go on where the journal stands
    uint8_t multicast_control;  // of multicasts, only those of its list are wanted
    PortKind kind;           // this and what follows about the port: not the frontend's word
    uint8_t padding[5];
    PortState port_state;
    Rate rate;
    std::array<QueueParameters, kMaxQueues> queues;
    SwitchPort port;         // of PortKind::switched
};

// Of a connected vif.
struct Adjust {
    Rate rate;
    uint8_t multicast_control;
    uint8_t padding[3];
    PortState port_state;
};

struct Stats {
    uint64_t tx_packets, tx_bytes;   // from the guest
    uint64_t tx_dropped;             // of a bad form, or not taken by the port
    uint64_t tx_errors;              // grants that could not be copied
    uint64_t rx_packets, rx_bytes;   // to the guest
    uint64_t rx_dropped;             // the guest gave no buffers, or cannot take such packets
    uint64_t rx_errors;
    uint64_t tx_gso, rx_gso;         // of the packets: to be cut in segments by somebody else
    uint64_t notifies_sent, events_taken;
    uint64_t grant_copy_calls, grant_copy_segments;
    uint64_t rate_waits;
    uint64_t rx_filtered;            // multicasts the guest does not want
    uint64_t rx_waited;              // of the packets: the guest had no buffers for them at once (switch)
    bridge::PortCounters port;       // of the switch
    uint8_t connected;
    uint8_t failed;                  // the rings are broken: connected, but served no more. Why: the answer's message
    uint8_t padding[6];
};

struct TableQuery {
    Text<32> name;    // of the switch
    uint32_t cursor;  // 0, then what the answer says
};
struct TableEntry {
    bridge::MacAddress address;
    uint16_t vlan;
    uint16_t domid;  // the vif it is behind
    uint8_t pinned;
    uint8_t padding;
    uint32_t handle;
    uint32_t age_s;
};
struct TablePage {
    uint32_t count;
    uint32_t cursor;  // 0: that was all; otherwise the page is full, and this is where it ended in the table
    std::array<TableEntry, 64> entries;
};

struct Answer {
    int32_t error;       // 0 or an errno value
    Text<512> message;   // why, one line, when error != 0 or stats.failed
    Stats stats;
    TablePage table;
};

struct Message {
    uint32_t version = kProtocolVersion;
    MessageType type{};
    uint16_t domid = 0;
    uint64_t id = 0;     // of the request; repeated by its answer
    uint32_t handle = 0;
    uint32_t padding = 0;
    union Body {
        Hello hello;
        Connect connect;
        Adjust adjust;
        TableQuery table;
        Answer answer;
        Body() : answer{} {}
    } body;
};
static_assert(std::is_trivially_copyable_v<Message>);
static_assert(sizeof(Message) < 4096);

}  // namespace ringback::net
