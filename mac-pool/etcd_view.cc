// SPDX-License-Identifier: Apache-2.0
#include "mac-pool/etcd_view.h"

namespace ringback::mac {

using nlohmann::json;

namespace {

constexpr int64_t kPage = 1000;

}  // namespace

Result<std::optional<int64_t>> read_all(EtcdClient& client, const std::string& prefix, uint64_t most,
                                        const std::function<void(const Entry&)>& each) {
    std::string from = client.prefix() + prefix;
    const std::string end = base64(after_prefix(from));
    int64_t revision = 0;  // that of the first page, for all of them
    while (true) {
        const json answer = TRY(client.call("kv/range", {{"key", base64(from)},
                                                         {"range_end", end},
                                                         {"limit", std::to_string(kPage)},
                                                         {"revision", std::to_string(revision)}}));
        if (revision == 0) {
            if (static_cast<uint64_t>(etcd_number(answer, "count")) > most) return std::optional<int64_t>();
            revision = etcd_number(answer.at("header"), "revision");
        }
        for (const json& kv : answer.value("kvs", json::array())) {
            from = etcd_bytes(kv, "key");
            each({from.substr(client.prefix().size()), etcd_bytes(kv, "value")});
        }
        if (!answer.value("more", false)) return std::optional<int64_t>(revision);
        from += '\0';  // the next possible key
    }
}

Result<std::optional<std::string>> EtcdViewTransaction::get(const std::string& key) {
    if (const auto own = changes_.all().find(key); own != changes_.all().end()) return own->second.value;
    const auto known = view_.entries.find(key);
    if (known == view_.entries.end()) return std::optional<std::string>();
    return std::optional<std::string>(known->second);
}

std::map<std::string, std::string> EtcdViewTransaction::seen(const std::string& prefix) const {
    std::map<std::string, std::string> found(view_.entries.lower_bound(prefix),
                                             view_.entries.lower_bound(after_prefix(prefix)));
    for (auto own = changes_.all().lower_bound(prefix);
         own != changes_.all().end() && own->first.starts_with(prefix); ++own) {
        if (own->second.value) {
            found[own->first] = *own->second.value;
        } else {
            found.erase(own->first);
        }
    }
    return found;
}

Result<std::optional<Entry>> EtcdViewTransaction::first(const std::string& prefix) {
    const auto found = seen(prefix);
    if (found.empty()) return std::optional<Entry>();
    return std::optional<Entry>(Entry(*found.begin()));
}

Result<std::vector<std::string>> EtcdViewTransaction::keys(const std::string& prefix) {
    std::vector<std::string> names;
    for (const auto& [name, value] : seen(prefix))
        names.push_back(name);
    return names;
}

void EtcdViewTransaction::remove(const std::string& key) {
    if (view_.entries.contains(key)) {
        changes_.set(key, {std::nullopt, 0});
    } else {
        changes_.drop(key);
    }
}

Result<bool> EtcdViewTransaction::commit(bool write) {
    const json answer = TRY(changes_.commit(json::array({changes_.unchanged_since(view_.revision)}), write));
    if (!answer.value("succeeded", false)) return false;
    if (!write) return true;
    view_.revision = etcd_number(answer.at("header"), "revision");
    for (const auto& [key, change] : changes_.all()) {
        if (change.value) {
            view_.entries[key] = *change.value;
        } else {
            view_.entries.erase(key);
        }
    }
    return true;
}

}  // namespace ringback::mac
