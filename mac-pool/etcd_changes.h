// SPDX-License-Identifier: Apache-2.0
//
// EtcdChanges: what a transaction will write, and its request to etcd.
//
// etcd takes 128 operations in a transaction (--max-txn-ops, its default), and counts those of a transaction inside
// a transaction along the path to them. So many writes go as 64 inner transactions of 64 writes each, which have
// no conditions of their own: the outer one's conditions decide about all.
//
// Whoever writes writes the key `changed`, too. Its revision is that of the pool's latest change, so one condition on
// it stands for conditions on everything that was read. Few reads are still compared one by one: two hosts that
// change different things then do not disturb each other.
//
// Source: etcd 3.4, api/etcdserverpb/rpc.proto, and server/etcdserver/api/v3rpc/key.go (checkTxnRequest).
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "mac-pool/etcd_client.h"

namespace ringback::mac {

inline constexpr size_t kEtcdOperations = 128;

// 64-bit numbers are strings in the gateway's JSON; zero is left out.
[[nodiscard]] int64_t etcd_number(const nlohmann::json& object, const char* name);
[[nodiscard]] std::string etcd_bytes(const nlohmann::json& object, const char* name);

class EtcdChanges {
  public:
    struct Change {
        std::optional<std::string> value;  // nullopt: removed
        int64_t seconds = 0;               // 0: for ever
    };
    // Leases by their length, which outlive the tries of one transaction, so that a retry asks for no second one.
    using Leases = std::map<int64_t, std::string>;

    EtcdChanges(EtcdClient& client, Leases& leases) : client_(client), leases_(leases) {}

    void set(const std::string& key, Change change) { all_[key] = std::move(change); }
    // For a key that is to be removed and known not to be there.
    void drop(const std::string& key) { all_.erase(key); }
    [[nodiscard]] const std::map<std::string, Change>& all() const { return all_; }

    // The condition that nothing of the pool has changed since `revision`.
    [[nodiscard]] nlohmann::json unchanged_since(int64_t revision) const;
    // Writes all, or with `write` false nothing, if every condition holds. E2BIG: more than etcd takes at once; nothing
    // was asked. Otherwise the answer, with `succeeded` if they held, and if every lease lives.
    [[nodiscard]] Result<nlohmann::json> commit(const nlohmann::json& conditions, bool write);

  private:
    [[nodiscard]] Result<nlohmann::json> operation(const std::string& key, const Change& change);
    [[nodiscard]] Result<std::string> lease(int64_t seconds);

    EtcdClient& client_;
    Leases& leases_;
    std::map<std::string, Change> all_;
};

}  // namespace ringback::mac
