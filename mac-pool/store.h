// SPDX-License-Identifier: Apache-2.0
//
// Store: what a pool is kept in: keys with values, changed in transactions. Knows nothing of MAC addresses.
//
// The rules of the pool are written once, on this interface, and not once per database; so a duplicate that
// one store would refuse cannot pass in the other, and every test of the pool runs on both. The interface is
// the smaller of the two databases: serialisable transactions over ordered keys, and keys that end by
// themselves.
//
// `work` may run several times, when another writer got in between or a server did not say whether it
// committed. So it must read all it needs inside, and a pool operation that was already done must succeed
// again with the same result.
//
// Thread: one owner; processes share a pool, threads do not share a Store.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/result.h"

namespace ringback::mac {

// Seconds since 1970. Tests hand in their own.
using Clock = std::function<int64_t()>;
[[nodiscard]] Clock system_clock();

using Entry = std::pair<std::string, std::string>;

class Transaction {
  public:
    virtual ~Transaction() = default;
    // Own writes of the transaction are seen.
    [[nodiscard]] virtual Result<std::optional<std::string>> get(const std::string& key) = 0;
    // The lowest key that begins with `prefix`.
    [[nodiscard]] virtual Result<std::optional<Entry>> first(const std::string& prefix) = 0;
    // All keys that begin with `prefix`: for places that hold a handful.
    [[nodiscard]] virtual Result<std::vector<std::string>> keys(const std::string& prefix) = 0;
    // These will be read: a store that is far away fetches them in one call.
    [[nodiscard]] virtual Result<void> prefetch(const std::vector<std::string>&) { return {}; }
    // A failure of these comes out at the end of the transaction.
    virtual void put(const std::string& key, const std::string& value) = 0;
    virtual void put_expiring(const std::string& key, const std::string& value, int64_t seconds) = 0;
    virtual void remove(const std::string& key) = 0;
};

class Store {
  public:
    using Work = std::function<Result<void>(Transaction&)>;

    virtual ~Store() = default;
    // Commits what `work` wrote if it succeeds, nothing if it fails; its error is judged on a consistent
    // view. When this returns without error the change survives a power cut.
    [[nodiscard]] virtual Result<void> transact(const Work& work) = 0;
    // `count` pieces of work, in as few transactions as suit the store: `work` is called with the first piece of a
    // part and the end of it, part after part, and again for a part that did not get through.
    using Part = std::function<Result<void>(Transaction&, size_t from, size_t to)>;
    [[nodiscard]] virtual Result<void> transact_all(size_t count, const Part& work);
    // Every key that begins with `prefix`, ascending, as of one moment.
    [[nodiscard]] virtual Result<void> scan(const std::string& prefix,
                                            const std::function<void(const Entry&)>& each) = 0;
    [[nodiscard]] virtual Result<uint64_t> count(const std::string& prefix) = 0;
    [[nodiscard]] virtual std::string name() const = 0;

  protected:
    // How many pieces of work transact_all gives to one transaction.
    [[nodiscard]] virtual size_t batch() const = 0;
};

// The first key after all that begin with `prefix`, which must not be empty.
[[nodiscard]] std::string after_prefix(std::string prefix);

// Where a pool is, and how to be let in.
struct Location {
    std::string url;  // sqlite:/PATH, or etcd+https://HOST:PORT[,HOST:PORT...]/PREFIX
    std::string user;
    std::string password;
    std::string ca_file;
    std::string cert_file;
    std::string key_file;
    // How long a call is tried again; without it as long as is good for a person who waits.
    std::optional<int> patience_seconds = {};
};

enum class Open : uint8_t { existing, create };
// EINVAL for what is no address of a pool. Nothing is opened.
[[nodiscard]] Result<void> check_url(const std::string& url);
// `create` makes the file of a SQLite pool; the pool itself is made by Pool::init.
[[nodiscard]] Result<std::unique_ptr<Store>> open_store(const Location& location, Clock clock, Open mode);

}  // namespace ringback::mac
