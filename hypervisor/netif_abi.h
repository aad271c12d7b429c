// SPDX-License-Identifier: Apache-2.0
//
// The network interface as it lies in shared memory (xen/io/netif.h). docs/netif.md tells it in words.
//
// Every ring is one page. There is one layout for all guests: no field is wider than 32 bits, and none needs padding that
// depends on the machine. A slot that carries an Extra has no id and is answered with kNull.
//
// tx is the guest sending, rx the guest receiving: the names are the guest's, here and everywhere.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ringback::xen::netif {

inline constexpr size_t kMaxSlots = 18;         // slots with data that one packet may take; more is the frontend's fault
inline constexpr size_t kMaxPacket = 65535;     // with its Ethernet header
inline constexpr size_t kEthernetHeader = 14;
inline constexpr size_t kMaxMtuWithoutSg = 1500;

enum TxFlag : uint16_t { kTxCsumBlank = 1, kTxDataValidated = 2, kTxMoreData = 4, kTxExtraInfo = 8 };
enum RxFlag : uint16_t { kRxDataValidated = 1, kRxCsumBlank = 2, kRxMoreData = 4, kRxExtraInfo = 8 };

enum Status : int16_t { kOkay = 0, kError = -1, kDropped = -2, kNull = 1 };

enum class ExtraType : uint8_t { none = 0, gso = 1, multicast_add = 2, multicast_del = 3, hash = 4, xdp = 5 };
inline constexpr uint8_t kExtraMore = 1;
enum class GsoType : uint8_t { none = 0, tcp4 = 1, tcp6 = 2 };

struct TxRequest {
    uint32_t gref;
    uint16_t offset;
    uint16_t flags;
    uint16_t id;
    uint16_t size;  // of the first slot: the whole packet; of any other: its own part
};
static_assert(sizeof(TxRequest) == 12);
static_assert(offsetof(TxRequest, offset) == 4 && offsetof(TxRequest, flags) == 6);
static_assert(offsetof(TxRequest, id) == 8 && offsetof(TxRequest, size) == 10);

struct TxResponse {
    uint16_t id;
    int16_t status;
};
static_assert(sizeof(TxResponse) == 4 && offsetof(TxResponse, status) == 2);

struct RxRequest {
    uint16_t id;
    uint16_t padding;
    uint32_t gref;
};
static_assert(sizeof(RxRequest) == 8 && offsetof(RxRequest, gref) == 4);

struct RxResponse {
    uint16_t id;
    uint16_t offset;
    uint16_t flags;
    int16_t status;  // bytes in this slot, or an error
};
static_assert(sizeof(RxResponse) == 8);
static_assert(offsetof(RxResponse, offset) == 2 && offsetof(RxResponse, flags) == 4);
static_assert(offsetof(RxResponse, status) == 6);

struct Extra {
    struct Gso {
        uint16_t size;  // of a segment's payload
        uint8_t type;
        uint8_t padding;
        uint16_t features;  // 0
    };
    struct Multicast {
        uint8_t address[6];
    };
    struct Hash {
        uint8_t type;
        uint8_t algorithm;
        uint8_t value[4];
    };
    struct Xdp {
        uint16_t headroom;
        uint16_t padding[2];
    };
    uint8_t type;
    uint8_t flags;
    union {
        Gso gso;
        Multicast multicast;
        Hash hash;
        Xdp xdp;
    };
};
static_assert(sizeof(Extra) == 8 && sizeof(Extra) <= sizeof(RxResponse) && sizeof(Extra) <= sizeof(TxRequest));
static_assert(offsetof(Extra, flags) == 1 && offsetof(Extra, gso) == 2);
static_assert(offsetof(Extra::Gso, type) == 2 && offsetof(Extra::Gso, features) == 4);
static_assert(sizeof(Extra::Multicast) == 6);
static_assert(offsetof(Extra::Hash, algorithm) == 1 && offsetof(Extra::Hash, value) == 2);
static_assert(sizeof(Extra::Xdp) == 6);

// The control ring: hash configuration of the guest's receive queues.
enum class ControlType : uint16_t {
    get_hash_flags = 1,
    set_hash_flags = 2,
    set_hash_key = 3,
    get_hash_mapping_size = 4,
    set_hash_mapping_size = 5,
    set_hash_mapping = 6,
    set_hash_algorithm = 7,
    get_gref_mapping_size = 8,
    add_gref_mapping = 9,
    del_gref_mapping = 10,
};
enum class ControlStatus : uint32_t { success = 0, not_supported = 1, invalid_parameter = 2, buffer_overflow = 3 };

struct ControlRequest {
    uint16_t id;
    uint16_t type;
    uint32_t data[3];
};
static_assert(sizeof(ControlRequest) == 16 && offsetof(ControlRequest, data) == 4);

struct ControlResponse {
    uint16_t id;
    uint16_t type;
    uint32_t status;
    uint32_t data;
};
static_assert(sizeof(ControlResponse) == 12);
static_assert(offsetof(ControlResponse, status) == 4 && offsetof(ControlResponse, data) == 8);

// Entries of a ring of one page.
inline constexpr uint32_t kTxEntries = 256;
inline constexpr uint32_t kRxEntries = 256;
inline constexpr uint32_t kControlEntries = 128;

}  // namespace ringback::xen::netif
