// SPDX-License-Identifier: Apache-2.0
#include "mac-pool/etcd_store.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <map>
#include <random>

#include "mac-pool/etcd_changes.h"
#include "mac-pool/etcd_view.h"

namespace ringback::mac {

using nlohmann::json;

namespace {

constexpr auto kDeadline = std::chrono::seconds(60);
constexpr size_t kMany = 600;       // pieces of work in one transaction on a view; each writes 5 keys, or a few more
constexpr size_t kKeysPerPiece = 6;  // what reading for a piece key by key would ask for
constexpr unsigned kViews = 3;       // where others write all the time, key by key gets on better

class EtcdTransaction final : public Transaction {
  public:
    EtcdTransaction(EtcdClient& client, EtcdChanges::Leases& leases)
        : client_(client), changes_(client, leases) {}

    Result<std::optional<std::string>> get(const std::string& key) override {
        if (const auto own = changes_.all().find(key); own != changes_.all().end()) return own->second.value;
        if (const auto known = reads_.find(key); known != reads_.end()) return known->second.value;
        const json answer = TRY(client_.call("kv/range", {{"key", base64(client_.prefix() + key)}}));
        note_view(answer);
        const auto kvs = answer.find("kvs");
        if (kvs == answer.end() || kvs->empty()) {
            reads_[key] = {};
            return std::optional<std::string>();
        }
        return std::optional<std::string>(note(kvs->front()).second);
    }

    Result<std::optional<Entry>> first(const std::string& prefix) override {
        // Enough of them that one is not removed by this very transaction.
        const auto removed = std::ranges::count_if(changes_.all(), [&](const auto& write) {
            return !write.second.value && write.first.starts_with(prefix);
        });
        const json answer = TRY(range(prefix, 1 + removed));
        std::optional<Entry> found;
        for (const json& kv : answer.value("kvs", json::array())) {
            const Entry entry = note(kv);
            const auto own = changes_.all().find(entry.first);
            if (own != changes_.all().end() && !own->second.value) continue;
            found = own == changes_.all().end() ? entry : Entry{entry.first, *own->second.value};
            break;
        }
        for (const auto& [key, write] : changes_.all()) {
            if (write.value && key.starts_with(prefix) && (!found || key < found->first))
                found = Entry{key, *write.value};
        }
        return found;
    }

    Result<std::vector<std::string>> keys(const std::string& prefix) override {
        std::vector<std::string> found;
        const json answer = TRY(range(prefix, 0));
        for (const json& kv : answer.value("kvs", json::array())) {
            const std::string key = note(kv).first;
            const auto own = changes_.all().find(key);
            if (own == changes_.all().end() || own->second.value) found.push_back(key);
        }
        for (const auto& [key, write] : changes_.all()) {
            if (write.value && key.starts_with(prefix) && std::ranges::find(found, key) == found.end())
                found.push_back(key);
        }
        std::ranges::sort(found);
        return found;
    }

    Result<void> prefetch(const std::vector<std::string>& keys) override {
        std::vector<std::string> asked;
        for (const std::string& key : keys) {
            if (reads_.contains(key) || changes_.all().contains(key)) continue;
            asked.push_back(key);
        }
        if (asked.empty()) return {};
        json operations = json::array();
        for (const std::string& key : asked) {
            json range{{"key", base64(client_.prefix() + key)}};
            // As this member has it, without asking the others: what is old makes the commit fail, which judges
            // whoever has read two keys.
            if (asked.size() > 1) range["serializable"] = true;
            operations.push_back({{"request_range", std::move(range)}});
        }
        const json answer = TRY(client_.call("kv/txn", {{"success", operations}}));
        note_view(answer);
        const json responses = answer.value("responses", json::array());
        for (size_t index = 0; index < asked.size() && index < responses.size(); ++index) {
            const json found =
                responses[index].value("response_range", json::object()).value("kvs", json::array());
            if (found.empty()) {
                reads_.try_emplace(asked[index], Read{});
            } else {
                (void)note(found.front());
            }
        }
        return {};
    }

    void put(const std::string& key, const std::string& value) override { changes_.set(key, {value, 0}); }
    void put_expiring(const std::string& key, const std::string& value, int64_t seconds) override {
        changes_.set(key, {value, seconds});
    }
    void remove(const std::string& key) override {
        // What was read is compared, so what is not there need not be removed.
        if (const auto known = reads_.find(key); known != reads_.end() && !known->second.value) {
            changes_.drop(key);
        } else {
            changes_.set(key, {std::nullopt, 0});
        }
    }

    // false: somebody changed what was read. `write` false: only asks whether the view was consistent.
    Result<bool> commit(bool write) {
        if ((!write || changes_.all().empty()) && reads_.size() < 2) return true;
        json compare = json::array();
        if (reads_.size() > kEtcdOperations) {
            compare.push_back(changes_.unchanged_since(oldest_));
        } else {
            for (const auto& [key, read] : reads_) {
                compare.push_back({{"key", base64(client_.prefix() + key)},
                                   {"target", "MOD"},
                                   {"result", "EQUAL"},
                                   {"mod_revision", std::to_string(read.revision)}});
            }
        }
        const json answer = TRY(changes_.commit(compare, write));
        return answer.value("succeeded", false);
    }

  private:
    struct Read {
        std::optional<std::string> value;
        int64_t revision = 0;  // 0: absent
    };
    Result<json> range(const std::string& prefix, int64_t limit) {
        const std::string from = client_.prefix() + prefix;
        json answer = TRY(client_.call("kv/range", {{"key", base64(from)},
                                                    {"range_end", base64(after_prefix(from))},
                                                    {"limit", std::to_string(limit)}}));
        note_view(answer);
        return answer;
    }

    // As of which revision the member has answered.
    void note_view(const json& answer) {
        oldest_ = std::min(oldest_, etcd_number(answer.value("header", json::object()), "revision"));
    }

    // What a key holds, by its first reading: a later one that differs makes the commit fail, as it should.
    Entry note(const json& kv) {
        const std::string key = etcd_bytes(kv, "key").substr(client_.prefix().size());
        const auto [at, fresh] =
            reads_.try_emplace(key, Read{etcd_bytes(kv, "value"), etcd_number(kv, "mod_revision")});
        return {key, at->second.value.value_or(std::string())};
    }

    EtcdClient& client_;
    EtcdChanges changes_;
    std::map<std::string, Read> reads_;
    int64_t oldest_ = std::numeric_limits<int64_t>::max();
};

class EtcdStore final : public Store {
  public:
    EtcdStore(EtcdAddress address, const Location& location)
        : url_(location.url), client_(std::move(address), location), random_(std::random_device{}()) {}

    Result<void> transact(const Work& work) override {
        const auto deadline = std::chrono::steady_clock::now() + kDeadline;
        EtcdChanges::Leases leases;
        for (int64_t longest = 2'000;; longest = std::min<int64_t>(longest * 2, 100'000)) {
            EtcdTransaction transaction(client_, leases);
            const Result<void> done = work(transaction);
            // An error of the rules may come from a view that never was; one of the cluster is what it is.
            if (!done.ok() && (done.error().code == EAGAIN || done.error().code == EACCES)) return done;
            const auto committed = transaction.commit(done.ok());
            if (!committed.ok()) return committed.error();
            if (committed.value()) return done;
            if (std::chrono::steady_clock::now() > deadline) {
                return Error{EBUSY,
                             fmt::format("pool {}: others changed it all the time for a minute", url_)};
            }
            ::usleep(static_cast<useconds_t>(std::uniform_int_distribution<int64_t>(0, longest)(random_)));
        }
    }

    Result<void> transact_all(size_t count, const Part& work) override {
        EtcdChanges::Leases leases;
        std::optional<EtcdView> view;
        size_t step = kMany;
        unsigned views = count <= batch() ? kViews : 0;
        for (size_t done = 0; done < count;) {
            if (!view && views < kViews) {
                view = TRY(take_view((count - done) * kKeysPerPiece));
                views = view ? views + 1 : kViews;
            }
            const size_t to = std::min(count, done + (view ? step : batch()));
            if (!view) {
                TRY(transact([&](Transaction& transaction) { return work(transaction, done, to); }));
                done = to;
                continue;
            }
            EtcdViewTransaction transaction(client_, leases, *view);
            const Result<void> worked = work(transaction, done, to);
            const auto committed = transaction.commit(worked.ok());
            if (!committed.ok() && committed.error().code == E2BIG && to - done > 1) {
                step = (to - done) / 2;
                continue;
            }
            if (!committed.ok()) return committed.error();
            if (!committed.value()) {
                view.reset();
                continue;
            }
            if (!worked.ok()) return worked;
            done = to;
        }
        return {};
    }

    Result<void> scan(const std::string& prefix, const std::function<void(const Entry&)>& each) override {
        (void)TRY(read_all(client_, prefix, std::numeric_limits<uint64_t>::max(), each));
        return {};
    }

    Result<uint64_t> count(const std::string& prefix) override {
        const std::string from = client_.prefix() + prefix;
        const json answer = TRY(client_.call(
            "kv/range",
            {{"key", base64(from)}, {"range_end", base64(after_prefix(from))}, {"count_only", true}}));
        return static_cast<uint64_t>(etcd_number(answer, "count"));
    }

    // Within etcd's own limit of 128 operations in a transaction.
    [[nodiscard]] size_t batch() const override { return 16; }
    [[nodiscard]] std::string name() const override { return url_; }

  private:
    // nullopt: the pool holds more keys than that.
    Result<std::optional<EtcdView>> take_view(uint64_t most) {
        EtcdView view;
        const auto revision = TRY(read_all(client_, "", most, [&](const Entry& entry) { view.entries.insert(entry); }));
        if (!revision) return std::optional<EtcdView>();
        view.revision = *revision;
        return std::optional<EtcdView>(std::move(view));
    }

    std::string url_;
    EtcdClient client_;
    std::minstd_rand random_;
};

}  // namespace

Result<std::unique_ptr<Store>> open_etcd(const Location& location) {
    EtcdAddress address = TRY(parse_etcd_url(location.url));
    return std::unique_ptr<Store>(std::make_unique<EtcdStore>(std::move(address), location));
}

}  // namespace ringback::mac
