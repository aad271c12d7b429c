// SPDX-License-Identifier: Apache-2.0
//
// The protocol between the supervisor (blkbackd) and a guest's worker (blkback-worker).
//
// One SOCK_SEQPACKET connection per worker, opened by the worker, so that a new supervisor is found again by workers
// that outlived the old one. A datagram is one Message: fixed layout, no pointers, no variable parts, descriptors beside
// it (SCM_RIGHTS). Requests carry an id that the answer repeats. Both ends treat the other as hostile: a datagram
// of the wrong size, version or type ends the connection.
//
// Order of a worker's life:
//   worker -> hello                      which guest it serves, its pid, the protocol version
//   worker -> present                    to a new supervisor: a device it still has (answer: geometry, stats.connected)
//   sup    -> attach  [image, journal]   open this device's image                 -> answer: geometry or error.
//                                        EBUSY: somebody has the image locked. The worker does not wait for locks,
//                                        as its guest's other disks would wait with it: ask again.
//   sup    -> connect                    map these rings, bind these ports, serve -> answer
//   sup    -> reconnect                  the same after a worker's death: what the journal says was taken is done, what
//                                        was answered and not published is published -> answer. EAGAIN: a port is not
//                                        free yet, ask again
//   worker -> recovered                  everything that the former worker owed is answered
//   sup    -> disconnect                 stop taking, finish and answer everything, unmap, unbind -> answer
//   sup    -> resize  (the file grew)    look at the size again                   -> answer: geometry
//   sup    -> stats                      -> answer: counters
//   sup    -> limit                      take requests this fast at most          -> answer: counters
//   sup    -> detach                     drop image and locks, forget the device  -> answer
//   worker -> open_file, sup -> file     the Opener: a file named by an image header; or, at any time, one more connection to a
//                                        network disk's server
//   worker -> device_failed              the frontend broke the protocol, or the image died: the device stopped serving.
//                                        Who was not there to hear it reads it in stats.failed, of any answer.
//   sup    -> quit                       disconnect and detach what is left, then exit 0
//
// The same structures are the journal's description of a connected device (journal.h), which is why they are
// versioned together.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

#include "hypervisor/blkif_abi.h"
#include "hypervisor/xenbus.h"

namespace ringback::blk {

inline constexpr uint32_t kProtocolVersion = 4;
inline constexpr uint32_t kJournalVersion = 2;  // worker/journal.h
inline constexpr size_t kMaxQueues = 16;
inline constexpr uint32_t kMaxSegments = 256;  // feature-max-indirect-segments
inline constexpr size_t kMaxRingOrder = 4;
inline constexpr size_t kMaxRingPages = 1U << kMaxRingOrder;

// Size of a device's journal file (worker/journal.h): a page of header, and for each queue 64 bytes and 128 a ring entry
// (32 entries a ring page). Sparse: only what is used takes memory.
inline constexpr size_t kJournalBytes = 4096 + kMaxQueues * (64 + 32 * kMaxRingPages * 128);

enum class MessageType : uint16_t {
    hello = 1,
    present,
    attach,
    connect,
    disconnect,
    resize,
    stats,
    detach,
    open_file,
    file,
    device_failed,
    quit,
    answer,
    reconnect,
    recovered,
    limit,
};

using Abi = xen::blkif::Abi;

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
        return {bytes.data(), std::string_view(bytes.data(), N).substr(0, N).find('\0') == std::string_view::npos
                                  ? N
                                  : std::string_view(bytes.data(), N).find('\0')};
    }
};

struct Hello {
    uint32_t protocol;
    uint32_t pid;
    uint16_t domid;
};

struct Attach {            // descriptors: [0] image file, of "nbd" a socket, [1] journal
    Text<16> format;       // "raw"
    Text<1024> name;       // for messages; of "nbd" the address
    uint8_t writable;
    uint8_t direct;
    uint8_t discard;       // may be offered
    uint8_t recover;       // the journal is a dead worker's: keep it
    uint32_t reconnect_seconds;  // of "nbd"
};

struct QueueParameters {
    std::array<uint32_t, kMaxRingPages> ring_refs;
    uint32_t remote_port;
};

struct Connect {
    Abi abi;
    uint8_t persistent;      // the frontend keeps its grants
    uint8_t ring_order;      // each queue has 1 << ring_order pages
    uint16_t queue_count;    // 1..kMaxQueues
    std::array<QueueParameters, kMaxQueues> queues;
};

// How fast a disk's requests are taken. 0: not limited.
struct Limit {
    uint64_t operations, bytes;  // a second
    uint32_t burst_ms;           // what an idle disk may take at once: what it may take in this time
};

struct Stats {
    uint64_t reads, writes, flushes, discards;
    uint64_t read_bytes, write_bytes, discard_bytes;
    uint64_t errors;           // requests answered with an error
    uint64_t bad_requests;     // of these: the frontend's fault
    uint64_t notifies_sent, events_taken;
    uint64_t grant_copy_calls, grant_copy_segments;
    uint64_t persistent_grants;   // mapped now
    uint64_t persistent_maps, persistent_unmaps;
    uint64_t reactor_enters, reactor_sleeps, poll_hits, poll_misses;
    uint64_t in_flight;
    uint64_t recoveries, replayed;  // of this attachment: workers that took over, requests they did again
    uint64_t throttled_ns;          // how long requests were held back
    uint8_t connected;
    uint8_t failed;            // the ring is broken: connected, but served no more. Why: the answer's message
    uint8_t sync_failed;
    uint8_t direct;
    uint8_t owing;             // attached with a dead worker's journal, and its rings not taken over yet
};

struct GeometryMessage {
    uint64_t bytes;
    uint32_t logical_block, physical_block;
    uint32_t discard_granularity, discard_alignment;
    uint8_t discard;
};

struct OpenFile {
    Text<1024> name;
    uint8_t writable;
};

struct Answer {
    int32_t error;         // 0 or an errno value
    Text<512> message;     // why, one line, when error != 0 or stats.failed
    GeometryMessage geometry;  // attach, resize
    Stats stats;               // stats
    Connect rings;             // which are served, when stats.connected
};

struct Message {
    uint32_t version = kProtocolVersion;
    MessageType type{};
    uint16_t padding = 0;
    uint64_t id = 0;       // of the request; repeated by its answer
    Text<16> kind;         // the device: vbd, vbd3, ...
    uint32_t devid = 0;
    uint32_t padding2 = 0;
    union Body {
        Hello hello;
        Attach attach;
        Connect connect;
        OpenFile open_file;
        Limit limit;
        Answer answer;
        Body() : answer{} {}
    } body;
};
static_assert(std::is_trivially_copyable_v<Message>);
static_assert(sizeof(Message) < 4096);

}  // namespace ringback::blk
