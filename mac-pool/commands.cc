// SPDX-License-Identifier: Apache-2.0
#include "mac-pool/commands.h"

#include <fmt/format.h>

#include "mac-pool/output.h"
#include "mac-pool/running.h"

namespace ringback::mac {

using nlohmann::json;

namespace {

Result<std::unique_ptr<Store>> open_configured(const Options& options, Open mode) {
    Config config = TRY(load_config(options.config));
    if (!options.url.empty()) config.url = options.url;
    return open_store(TRY(locate(config)), system_clock(), mode);
}

int granted(const Options& options, const Granted& granted) {
    if (!granted.note.empty()) warn(granted.lease.mac.text() + ": " + granted.note);
    if (options.json) {
        json object = to_json(granted.lease);
        object["fresh"] = granted.fresh;
        print(object);
    } else {
        fmt::print("{}\n", granted.lease.mac.text());
    }
    return 0;
}

Result<Settings> settings_of(const InitRequest& request) {
    Settings settings;
    const std::vector<std::string> whole{kDefaultRange};
    for (const std::string& text : request.ranges.empty() ? whole : request.ranges) {
        settings.ranges.push_back(TRY(parse_range(text)));
    }
    for (const std::string& text : request.exclusions)
        settings.exclusions.push_back(TRY(parse_range(text)));
    settings.rest_seconds = TRY(parse_duration(request.rest));
    return settings;
}

}  // namespace

void warn(const std::string& text) {
    fmt::print(stderr, "macpool: {}\n", text);
}

int fail(const Options& options, const Error& error) {
    warn(error.message);
    if (options.json) print({{"error", error.message}});
    return 1;
}

Result<Pool> open_pool(const Options& options) {
    return Pool::open(TRY(open_configured(options, Open::existing)), system_clock());
}

int with_pool(const Options& options, const std::function<Result<int>(Pool&)>& work) {
    auto pool = open_pool(options);
    if (!pool.ok()) return fail(options, pool.error());
    const Result<int> done = work(pool.value());
    return done.ok() ? done.value() : fail(options, done.error());
}

int init(const Options& options, const InitRequest& request) {
    const auto settings = settings_of(request);
    if (!settings.ok()) return fail(options, settings.error());
    // Before a file is made for what cannot be.
    const auto space = Space::make(settings.value().ranges, settings.value().exclusions);
    if (!space.ok()) return fail(options, space.error());
    auto store = open_configured(options, Open::create);
    if (!store.ok()) return fail(options, store.error());
    const auto made = Pool::init(*store.value(), settings.value());
    if (!made.ok()) return fail(options, made.error());
    if (options.json) {
        print({{"pool", store.value()->name()}, {"made", made.value()}, {"size", space.value().size()}});
    } else {
        fmt::print("{}: {} addresses{}\n", store.value()->name(), space.value().size(),
                   made.value() ? "" : ", made before");
    }
    return 0;
}

int allocate(const Options& options, const std::string& guest, unsigned nic) {
    return with_pool(options, [&](Pool& pool) -> Result<int> {
        const Guest who = TRY(resolve_guest(pool, guest));
        return granted(options, TRY(pool.allocate(who, nic)));
    });
}

int reserve(const Options& options, const std::string& mac, const std::string& guest, unsigned nic) {
    return with_pool(options, [&](Pool& pool) -> Result<int> {
        const Mac address = TRY(parse_unicast(mac));
        std::optional<Guest> who;
        if (!guest.empty()) who = TRY(resolve_guest(pool, guest));
        return granted(options, TRY(pool.reserve(address, who, nic)));
    });
}

int release(const Options& options, const std::string& mac, const std::string& guest,
            std::optional<unsigned> nic) {
    return with_pool(options, [&](Pool& pool) -> Result<int> {
        std::vector<Mac> released;
        if (mac.empty()) {
            released = TRY(pool.release(TRY(resolve_guest(pool, guest)), nic));
        } else {
            const Mac address = TRY(parse_mac(mac));
            if (TRY(pool.release(address))) released.push_back(address);
        }
        if (released.empty()) warn(mac.empty() ? guest + " holds no such address" : "nobody holds " + mac);
        json list = json::array();
        for (const Mac address : released) {
            list.push_back(address.text());
            if (!options.json) fmt::print("{}\n", address.text());
        }
        if (options.json) print({{"released", list}});
        return 0;
    });
}

int show(const Options& options, const std::string& word) {
    return with_pool(options, [&](Pool& pool) -> Result<int> {
        std::vector<Lease> leases;
        std::optional<Resting> resting;
        const auto mac = parse_mac(word);
        if (mac.ok()) {
            const auto lease = TRY(pool.holder(mac.value()));
            if (lease) leases.push_back(*lease);
            if (!lease) resting = TRY(pool.resting(mac.value()));
        } else {
            const auto record = TRY(pool.find(TRY(resolve_guest(pool, word))));
            if (!record) return Error{ENOENT, fmt::format("the pool knows no guest {}", word)};
            for (const auto& [nic, address] : record->nics) {
                if (auto lease = TRY(pool.holder(address))) leases.push_back(*lease);
            }
        }
        if (options.json) {
            json object{{"leases", json::array()}};
            for (const Lease& lease : leases)
                object["leases"].push_back(to_json(lease));
            if (resting) object["resting"] = to_json(mac.value(), *resting);
            if (mac.ok()) object["in_ranges"] = pool.contains(mac.value());
            print(object);
        } else {
            for (const Lease& lease : leases)
                fmt::print("{}\n", line(lease));
            if (resting) fmt::print("{}\n", line(mac.value(), *resting));
            if (leases.empty() && !resting) {
                fmt::print("{}  {}\n", word, pool.contains(mac.value()) ? "free" : "not of this pool");
            }
        }
        return 0;
    });
}

int list(const Options& options, bool resting) {
    return with_pool(options, [&](Pool& pool) -> Result<int> {
        json all = json::array();
        if (resting) {
            TRY(pool.each_resting([&](Mac mac, const Resting& rest) {
                if (options.json) {
                    all.push_back(to_json(mac, rest));
                } else {
                    fmt::print("{}\n", line(mac, rest));
                }
            }));
        } else {
            TRY(pool.each_lease([&](const Lease& lease) {
                if (options.json) {
                    all.push_back(to_json(lease));
                } else {
                    fmt::print("{}\n", line(lease));
                }
            }));
        }
        if (options.json) print(all);
        return 0;
    });
}

int export_pool(const Options& options) {
    return with_pool(options, [&](Pool& pool) -> Result<int> {
        json document = to_json(pool.settings());
        document["pool"] = pool.name();
        document["leases"] = json::array();
        document["released"] = json::array();
        TRY(pool.each_lease([&](const Lease& lease) { document["leases"].push_back(to_json(lease)); }));
        TRY(pool.each_resting(
            [&](Mac mac, const Resting& rest) { document["released"].push_back(to_json(mac, rest)); }));
        print(document);
        return 0;
    });
}

int stats(const Options& options) {
    return with_pool(options, [&](Pool& pool) -> Result<int> {
        const Stats stats = TRY(pool.stats());
        if (options.json) {
            print(to_json(stats));
            return 0;
        }
        fmt::print("addresses of the pool   {}\n", stats.size);
        fmt::print("in use                  {}\n", stats.in_use);
        fmt::print("  outside the ranges    {}\n", stats.outside);
        fmt::print("released                {}\n", stats.released);
        fmt::print("never given out         {}\n", stats.untouched);
        fmt::print("guests                  {}\n", stats.guests);
        return 0;
    });
}

}  // namespace ringback::mac
