// SPDX-License-Identifier: Apache-2.0
#include "mac-pool/etcd_store.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <random>

#include "mac-pool/etcd_client.h"

namespace ringback::mac {

using nlohmann::json;

namespace {

constexpr auto kDeadline = std::chrono::seconds(60);
constexpr int64_t kPage = 1000;

// 64-bit numbers are strings in the gateway's JSON; zero is left out.
int64_t number(const json& object, const char* name) {
    const auto at = object.find(name);
    if (at == object.end()) return 0;
    if (at->is_string()) return std::stoll(at->get<std::string>());
    return at->get<int64_t>();
}

std::string bytes(const json& object, const char* name) {
    const auto at = object.find(name);
    return at == object.end() ? std::string() : unbase64(at->get<std::string>());
}

class EtcdTransaction final : public Transaction {
  public:
    // `leases` outlives the tries of one transaction, so that a retry asks for no second lease.
    EtcdTransaction(EtcdClient& client, std::map<int64_t, std::string>& leases)
        : client_(client), leases_(leases) {}

    Result<std::optional<std::string>> get(const std::string& key) override {
        if (const auto own = writes_.find(key); own != writes_.end()) return own->second.value;
        if (const auto known = reads_.find(key); known != reads_.end()) return known->second.value;
        const json answer = TRY(client_.call("kv/range", {{"key", base64(client_.prefix() + key)}}));
        const auto kvs = answer.find("kvs");
        if (kvs == answer.end() || kvs->empty()) {
            reads_[key] = {};
            return std::optional<std::string>();
        }
        return std::optional<std::string>(note(kvs->front()).second);
    }

    Result<std::optional<Entry>> first(const std::string& prefix) override {
        // Enough of them that one is not removed by this very transaction.
        const auto removed = std::ranges::count_if(writes_, [&](const auto& write) {
            return !write.second.value && write.first.starts_with(prefix);
        });
        const json answer = TRY(range(prefix, 1 + removed));
        std::optional<Entry> found;
        for (const json& kv : answer.value("kvs", json::array())) {
            const Entry entry = note(kv);
            const auto own = writes_.find(entry.first);
            if (own != writes_.end() && !own->second.value) continue;
            found = own == writes_.end() ? entry : Entry{entry.first, *own->second.value};
            break;
        }
        for (const auto& [key, write] : writes_) {
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
            const auto own = writes_.find(key);
            if (own == writes_.end() || own->second.value) found.push_back(key);
        }
        for (const auto& [key, write] : writes_) {
            if (write.value && key.starts_with(prefix) && std::ranges::find(found, key) == found.end())
                found.push_back(key);
        }
        std::ranges::sort(found);
        return found;
    }

    Result<void> prefetch(const std::vector<std::string>& keys) override {
        std::vector<std::string> asked;
        for (const std::string& key : keys) {
            if (reads_.contains(key) || writes_.contains(key)) continue;
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

    void put(const std::string& key, const std::string& value) override { writes_[key] = {value, 0}; }
    void put_expiring(const std::string& key, const std::string& value, int64_t seconds) override {
        writes_[key] = {value, seconds};
    }
    void remove(const std::string& key) override { writes_[key] = {std::nullopt, 0}; }

    // false: somebody changed what was read. `write` false: only asks whether the view was consistent.
    Result<bool> commit(bool write) {
        const bool nothing_to_write = !write || writes_.empty();
        if (nothing_to_write && reads_.size() < 2) return true;
        json compare = json::array();
        for (const auto& [key, read] : reads_) {
            compare.push_back({{"key", base64(client_.prefix() + key)},
                               {"target", "MOD"},
                               {"result", "EQUAL"},
                               {"mod_revision", std::to_string(read.revision)}});
        }
        json success = json::array();
        if (!nothing_to_write) {
            for (const auto& [key, change] : writes_)
                success.push_back(TRY(operation(key, change)));
        }
        const json answer = TRY(client_.call("kv/txn", {{"compare", compare}, {"success", success}}));
        return answer.value("succeeded", false);
    }

  private:
    struct Read {
        std::optional<std::string> value;
        int64_t revision = 0;  // 0: absent
    };
    struct Write {
        std::optional<std::string> value;  // nullopt: removed
        int64_t seconds = 0;
    };

    Result<json> range(const std::string& prefix, int64_t limit) {
        const std::string from = client_.prefix() + prefix;
        return client_.call("kv/range", {{"key", base64(from)},
                                         {"range_end", base64(after_prefix(from))},
                                         {"limit", std::to_string(limit)}});
    }

    // What a key holds, by its first reading: a later one that differs makes the commit fail, as it should.
    Entry note(const json& kv) {
        const std::string key = bytes(kv, "key").substr(client_.prefix().size());
        const auto [at, fresh] =
            reads_.try_emplace(key, Read{bytes(kv, "value"), number(kv, "mod_revision")});
        return {key, at->second.value.value_or(std::string())};
    }

    Result<json> operation(const std::string& key, const Write& change) {
        const std::string name = base64(client_.prefix() + key);
        if (!change.value) return json{{"request_delete_range", {{"key", name}}}};
        json put{{"key", name}, {"value", base64(*change.value)}};
        if (change.seconds > 0) put["lease"] = TRY(lease(change.seconds));
        return json{{"request_put", put}};
    }

    Result<std::string> lease(int64_t seconds) {
        std::string& id = leases_[seconds];
        if (id.empty()) {
            const json answer = TRY(client_.call("lease/grant", {{"TTL", std::to_string(seconds)}}));
            id = std::to_string(number(answer, "ID"));
        }
        return id;
    }

    EtcdClient& client_;
    std::map<int64_t, std::string>& leases_;
    std::map<std::string, Read> reads_;
    std::map<std::string, Write> writes_;
};

class EtcdStore final : public Store {
  public:
    EtcdStore(EtcdAddress address, const Location& location)
        : url_(location.url), client_(std::move(address), location), random_(std::random_device{}()) {}

    Result<void> transact(const Work& work) override {
        const auto deadline = std::chrono::steady_clock::now() + kDeadline;
        std::map<int64_t, std::string> leases;
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

    Result<void> scan(const std::string& prefix, const std::function<void(const Entry&)>& each) override {
        std::string from = client_.prefix() + prefix;
        const std::string end = base64(after_prefix(from));
        int64_t revision = 0;  // that of the first page, for all of them
        while (true) {
            const json answer = TRY(client_.call("kv/range", {{"key", base64(from)},
                                                              {"range_end", end},
                                                              {"limit", std::to_string(kPage)},
                                                              {"revision", std::to_string(revision)}}));
            if (revision == 0) revision = number(answer.at("header"), "revision");
            for (const json& kv : answer.value("kvs", json::array())) {
                from = bytes(kv, "key");
                each({from.substr(client_.prefix().size()), bytes(kv, "value")});
            }
            if (!answer.value("more", false)) return {};
            from += '\0';  // the next possible key
        }
    }

    Result<uint64_t> count(const std::string& prefix) override {
        const std::string from = client_.prefix() + prefix;
        const json answer = TRY(client_.call(
            "kv/range",
            {{"key", base64(from)}, {"range_end", base64(after_prefix(from))}, {"count_only", true}}));
        return static_cast<uint64_t>(number(answer, "count"));
    }

    // Within etcd's own limit of 128 operations in a transaction.
    [[nodiscard]] size_t batch() const override { return 16; }
    [[nodiscard]] std::string name() const override { return url_; }

  private:
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
