// SPDX-License-Identifier: Apache-2.0
#include "mac-pool/store.h"

#include <fmt/format.h>

#include <ctime>

#include "mac-pool/etcd_store.h"
#include "mac-pool/sqlite_store.h"

namespace ringback::mac {

Clock system_clock() {
    return [] { return static_cast<int64_t>(std::time(nullptr)); };
}

std::string after_prefix(std::string prefix) {
    INVARIANT(!prefix.empty() && static_cast<unsigned char>(prefix.back()) != 0xff);
    prefix.back() = static_cast<char>(prefix.back() + 1);
    return prefix;
}

Result<std::unique_ptr<Store>> open_store(const Location& location, Clock clock, Open mode) {
    const std::string& url = location.url;
    if (url.starts_with("sqlite:")) return open_sqlite(url.substr(7), std::move(clock), mode);
    if (url.starts_with("etcd+http://") || url.starts_with("etcd+https://")) return open_etcd(location);
    return Error{EINVAL,
                 fmt::format("pool '{}' is neither sqlite:/PATH nor etcd+https://HOST:PORT/PREFIX", url)};
}

}  // namespace ringback::mac
