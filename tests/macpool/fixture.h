// SPDX-License-Identifier: Apache-2.0
//
// What the tests of the pool share: a directory that goes away, a clock that is set by hand, and every store
// a pool can be in. A test that takes a Place from any_store() runs on each of them.
#pragma once

#include <stdlib.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>

#include "mac-pool/pool.h"
#include "tests/macpool/etcd_cluster.h"

namespace ringback::test {

template <typename T>
T must(Result<T> result) {
    if (!result.ok()) FAIL(result.error().message);
    return std::move(result).value();
}
inline void must(Result<void> result) {
    if (!result.ok()) FAIL(result.error().message);
}
template <typename T>
Error must_fail(Result<T> result) {
    if (result.ok()) FAIL("succeeded, and should not have");
    return result.error();
}

class Directory {
  public:
    Directory() {
        path_ = std::filesystem::temp_directory_path() / "macpool-test-XXXXXX";
        if (::mkdtemp(path_.data()) == nullptr) FAIL("cannot make " << path_);
    }
    ~Directory() { std::filesystem::remove_all(path_); }
    Directory(const Directory&) = delete;
    Directory& operator=(const Directory&) = delete;
    [[nodiscard]] std::string file(const std::string& name) const { return path_ + "/" + name; }
    [[nodiscard]] const std::string& path() const { return path_; }

  private:
    std::string path_;
};

inline std::string slurp(const std::string& path) {
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

enum class Kind { sqlite, etcd };

inline Kind any_store() { return GENERATE(Kind::sqlite, Kind::etcd); }

// The one cluster of a test process, started at its first use.
inline EtcdCluster& cluster() {
    static EtcdCluster one;
    return one;
}

// An empty place for a pool.
class Place {
  public:
    explicit Place(Kind kind) {
        static int number = 0;
        if (kind == Kind::etcd && !EtcdCluster::available()) SKIP("etcd is not installed (etcd-server)");
        url_ = kind == Kind::sqlite ? "sqlite:" + directory_.file("pool.db")
                                    : cluster().url("pool" + std::to_string(++number));
    }

    [[nodiscard]] const std::string& url() const { return url_; }
    [[nodiscard]] std::string file(const std::string& name) const { return directory_.file(name); }
    [[nodiscard]] mac::Clock clock() {
        return [this] { return now; };
    }
    [[nodiscard]] std::unique_ptr<mac::Store> store() {
        mac::Location location;
        location.url = url_;
        return must(mac::open_store(location, clock(), mac::Open::create));
    }
    [[nodiscard]] mac::Pool pool() { return must(mac::Pool::open(store(), clock())); }
    mac::Pool make(const std::string& range, int64_t rest = mac::kDefaultRest,
                   const std::string& exclusion = {}) {
        mac::Settings settings;
        settings.ranges = {must(mac::parse_range(range))};
        if (!exclusion.empty()) settings.exclusions = {must(mac::parse_range(exclusion))};
        settings.rest_seconds = rest;
        must(mac::Pool::init(*store(), settings, mac::Key{1, 2}));
        return pool();
    }

    int64_t now = 1'800'000'000;

  private:
    Directory directory_;
    std::string url_;
};

inline mac::Guest named(const std::string& name) {
    return {name, {}};
}
inline mac::Mac address(const std::string& text) {
    return must(mac::parse_mac(text));
}

// Every address is in one place only, and every record has its counterpart: what must hold whenever nobody
// writes.
void check_whole(mac::Store& store, const mac::Pool& pool);

}  // namespace ringback::test
