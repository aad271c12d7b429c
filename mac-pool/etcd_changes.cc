// SPDX-License-Identifier: Apache-2.0
#include "mac-pool/etcd_changes.h"

#include <fmt/format.h>

#include <algorithm>

namespace ringback::mac {

using nlohmann::json;

namespace {

constexpr const char* kChanged = "changed";
// etcd takes 1.5 MiB (--max-request-bytes) of its own encoding, which is always shorter than JSON.
constexpr size_t kLongestRequest = 1'500'000;

// How many of `count` operations each inner transaction takes; 0: none is needed; nullopt: it cannot be done.
std::optional<size_t> cut(size_t count, size_t conditions) {
    if (count <= kEtcdOperations) return 0;
    for (size_t groups = 2; groups < kEtcdOperations; ++groups) {
        const size_t each = kEtcdOperations - std::min(kEtcdOperations, std::max(conditions, groups));
        if (each * groups >= count) return each;
    }
    return std::nullopt;
}

json grouped(const json& operations, size_t each) {
    json groups = json::array();
    for (const json& operation : operations) {
        if (groups.empty() || groups.back()["request_txn"]["success"].size() == each) {
            groups.push_back({{"request_txn", {{"success", json::array()}}}});
        }
        groups.back()["request_txn"]["success"].push_back(operation);
    }
    return groups;
}

}  // namespace

int64_t etcd_number(const json& object, const char* name) {
    const auto at = object.find(name);
    if (at == object.end()) return 0;
    if (at->is_string()) return std::stoll(at->get<std::string>());
    return at->get<int64_t>();
}

std::string etcd_bytes(const json& object, const char* name) {
    const auto at = object.find(name);
    return at == object.end() ? std::string() : unbase64(at->get<std::string>());
}

json EtcdChanges::unchanged_since(int64_t revision) const {
    return {{"key", base64(client_.prefix() + kChanged)},
            {"target", "MOD"},
            {"result", "LESS"},
            {"mod_revision", std::to_string(revision + 1)}};
}

Result<json> EtcdChanges::commit(const json& conditions, bool write) {
    json operations = json::array();
    if (write && !all_.empty()) {
        operations.push_back(TRY(operation(kChanged, {std::string(), 0})));
        for (const auto& [key, change] : all_)
            operations.push_back(TRY(operation(key, change)));
    }
    const size_t count = operations.size();
    const auto each = cut(count, conditions.size());
    if (!each) return Error{E2BIG, fmt::format("a change of {} records is more than etcd takes at once", count)};
    const json request{{"compare", conditions}, {"success", *each == 0 ? std::move(operations) : grouped(operations, *each)}};
    const std::string body = request.dump();
    if (body.size() > kLongestRequest)
        return Error{E2BIG, fmt::format("a change of {} bytes is more than etcd takes at once", body.size())};
    auto answer = client_.send("kv/txn", body);
    if (answer.ok() || answer.error().code != ESTALE) return answer;
    // A short rest period and a busy cluster, or many tries. The next one asks for another.
    leases_.clear();
    return json{{"succeeded", false}};
}

Result<json> EtcdChanges::operation(const std::string& key, const Change& change) {
    const std::string name = base64(client_.prefix() + key);
    if (!change.value) return json{{"request_delete_range", {{"key", name}}}};
    json put{{"key", name}, {"value", base64(*change.value)}};
    if (change.seconds > 0) put["lease"] = TRY(lease(change.seconds));
    return json{{"request_put", std::move(put)}};
}

Result<std::string> EtcdChanges::lease(int64_t seconds) {
    std::string& id = leases_[seconds];
    if (id.empty()) {
        const json answer = TRY(client_.call("lease/grant", {{"TTL", std::to_string(seconds)}}));
        id = std::to_string(etcd_number(answer, "ID"));
    }
    return id;
}

}  // namespace ringback::mac
