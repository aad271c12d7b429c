// SPDX-License-Identifier: Apache-2.0
//
// Pool: the MAC addresses of a site. Each operation is one transaction of the store; ledger.h has the rules.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "mac-pool/ledger.h"

namespace ringback::mac {

inline constexpr int64_t kDefaultRest = 24 * 3600;
inline constexpr const char* kDefaultRange = "00:16:3e";  // Xen's own OUI

struct Stats {
    uint64_t size = 0;       // addresses in the ranges without the exclusions
    uint64_t in_use = 0;     // held, inside the ranges or outside
    uint64_t outside = 0;    // of these, outside
    uint64_t released = 0;   // released and not yet given out again; rest or have rested
    uint64_t untouched = 0;  // never given out
    uint64_t guests = 0;
};

class Pool {
  public:
    // true: made. false: it was there already with the same ranges, exclusions and rest; the key is then left
    // as it is. EEXIST: there is another one. `key`: only tests choose it.
    [[nodiscard]] static Result<bool> init(Store& store, Settings request,
                                           std::optional<Key> key = std::nullopt);
    // ENOENT: nobody has made it.
    [[nodiscard]] static Result<Pool> open(std::unique_ptr<Store> store, Clock clock);

    [[nodiscard]] Result<Granted> allocate(const Guest& guest, unsigned nic);
    [[nodiscard]] Result<Granted> reserve(Mac mac, const std::optional<Guest>& guest, unsigned nic);
    // false: nobody held it.
    [[nodiscard]] Result<bool> release(Mac mac);
    [[nodiscard]] Result<std::vector<Mac>> release(const Guest& guest, std::optional<unsigned> nic);

    [[nodiscard]] Result<std::optional<Lease>> holder(Mac mac);
    [[nodiscard]] Result<std::optional<Resting>> resting(Mac mac);
    [[nodiscard]] Result<std::optional<GuestRecord>> find(const Guest& guest);
    [[nodiscard]] bool contains(Mac mac) const { return rules_->space.rank(mac).has_value(); }

    // Ascending by address.
    [[nodiscard]] Result<void> each_lease(const std::function<void(const Lease&)>& each);
    [[nodiscard]] Result<void> each_resting(const std::function<void(Mac, const Resting&)>& each);
    [[nodiscard]] Result<Stats> stats();
    [[nodiscard]] Result<Progress> progress();

    // Several operations as one: all or none.
    [[nodiscard]] Result<void> together(const std::function<Result<void>(Ledger&)>& work);
    // `count` pieces of work in few transactions, as Store::transact_all.
    [[nodiscard]] Result<void> together(size_t count,
                                        const std::function<Result<void>(Ledger&, size_t from, size_t to)>& work);
    [[nodiscard]] const Settings& settings() const { return rules_->settings; }
    [[nodiscard]] std::string name() const { return store_->name(); }

  private:
    Pool(std::unique_ptr<Store> store, Clock clock, std::unique_ptr<Rules> rules)
        : store_(std::move(store)), clock_(std::move(clock)), rules_(std::move(rules)) {}

    std::unique_ptr<Store> store_;
    Clock clock_;
    std::unique_ptr<Rules> rules_;  // its address stays while the pool moves
};

}  // namespace ringback::mac
