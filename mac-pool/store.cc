// SPDX-License-Identifier: Apache-2.0
#include "mac-pool/store.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "mac-pool/etcd_client.h"
#include "mac-pool/etcd_store.h"
#include "mac-pool/sqlite_store.h"

namespace ringback::mac {

namespace {

bool is_sqlite(const std::string& url) {
    return url.starts_with("sqlite:");
}

}  // namespace

Clock system_clock() {
    return [] { return static_cast<int64_t>(std::time(nullptr)); };
}

Result<void> Store::transact_all(size_t count, const Part& work) {
    for (size_t from = 0; from < count; from += batch()) {
        const size_t to = std::min(count, from + batch());
        TRY(transact([&](Transaction& transaction) { return work(transaction, from, to); }));
    }
    return {};
}

std::string after_prefix(std::string prefix) {
    INVARIANT(!prefix.empty() && static_cast<unsigned char>(prefix.back()) != 0xff);
    prefix.back() = static_cast<char>(prefix.back() + 1);
    return prefix;
}

Result<void> check_url(const std::string& url) {
    if (is_sqlite(url)) {
        if (!url.starts_with("sqlite:/"))
            return Error{EINVAL, fmt::format("pool '{}' must have an absolute path", url)};
        return {};
    }
    if (!url.starts_with("etcd+http://") && !url.starts_with("etcd+https://")) {
        return Error{EINVAL,
                     fmt::format("pool '{}' is neither sqlite:/PATH nor etcd+https://HOST:PORT/PREFIX", url)};
    }
    (void)TRY(parse_etcd_url(url));
    return {};
}

Result<std::unique_ptr<Store>> open_store(const Location& location, Clock clock, Open mode) {
    TRY(check_url(location.url));
    if (is_sqlite(location.url)) return open_sqlite(location, std::move(clock), mode);
    return open_etcd(location);
}

}  // namespace ringback::mac
