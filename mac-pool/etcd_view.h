// SPDX-License-Identifier: Apache-2.0
//
// EtcdView: a whole pool as of one revision, for many changes in a row: an import into a pool that is not much larger
// than itself.
//
// Reading key by key is most of what such an import would cost: a call for each few addresses. The view is read
// once, and each transaction on it is one call: its writes, on the condition that the pool has not changed since the
// view's revision. If it was committed, the view with those writes is the pool as of the new revision. If not,
// another host wrote in between, and the view is worth nothing any more.
//
// A key that ended by itself (a rest period) meanwhile is still in the view.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "mac-pool/etcd_changes.h"
#include "mac-pool/store.h"

namespace ringback::mac {

struct EtcdView {
    std::map<std::string, std::string> entries;
    int64_t revision = 0;
};

// Every key that begins with `prefix`, ascending, as of one revision, which is returned. nullopt: there are more than
// `most`, and few or none were read.
[[nodiscard]] Result<std::optional<int64_t>> read_all(EtcdClient& client, const std::string& prefix, uint64_t most,
                                                      const std::function<void(const Entry&)>& each);

class EtcdViewTransaction final : public Transaction {
  public:
    EtcdViewTransaction(EtcdClient& client, EtcdChanges::Leases& leases, EtcdView& view)
        : changes_(client, leases), view_(view) {}

    Result<std::optional<std::string>> get(const std::string& key) override;
    Result<std::optional<Entry>> first(const std::string& prefix) override;
    Result<std::vector<std::string>> keys(const std::string& prefix) override;
    void put(const std::string& key, const std::string& value) override { changes_.set(key, {value, 0}); }
    void put_expiring(const std::string& key, const std::string& value, int64_t seconds) override {
        changes_.set(key, {value, seconds});
    }
    void remove(const std::string& key) override;

    // Commits, and brings the view to what was committed. false: the view was not the pool any more. `write` false:
    // only asks whether it was. E2BIG as of EtcdChanges.
    [[nodiscard]] Result<bool> commit(bool write);

  private:
    [[nodiscard]] std::map<std::string, std::string> seen(const std::string& prefix) const;

    EtcdChanges changes_;
    EtcdView& view_;
};

}  // namespace ringback::mac
