// SPDX-License-Identifier: Apache-2.0
#include "mac-pool/apply.h"

#include <fmt/format.h>

#include <map>
#include <set>

namespace ringback::mac {

namespace {

// One run of the transaction: everything is found out anew.
class Application {
  public:
    Application(Ledger& ledger, const XlConfig& config, Clone clone, const Guest& offered)
        : ledger_(ledger), config_(config), clone_(clone), guest_(offered) {}

    Result<Applied> run() {
        TRY(identify());
        // A guest without addresses has no place in the pool.
        const bool held = TRY(ledger_.find(guest_)).has_value();
        if (config_.vifs() == 0) applied_.notes.push_back(config_.origin() + " has no vif");
        if (config_.vifs() == 0 && !held) return std::move(applied_);
        GuestRecord record = TRY(ledger_.enter(guest_));
        guest_ = record.guest;
        applied_.guest = guest_;
        applied_.uuid_written = config_.uuid() != guest_.uuid;
        TRY(renumber());
        for (unsigned nic = 0; nic < config_.vifs(); ++nic) {
            const auto before = config_.mac(nic);
            const Mac mac = before ? TRY(settle(nic, *before)) : TRY(ledger_.allocate(guest_, nic)).lease.mac;
            applied_.nics.push_back({nic, mac, before});
        }
        record = TRY(ledger_.enter(guest_));
        for (const auto& [nic, mac] : record.nics) {
            if (nic < config_.vifs()) continue;
            applied_.notes.push_back(fmt::format(
                "the pool holds {} for nic {}, which {} does not have; `macpool release {}` gives it back",
                mac.text(), nic, config_.origin(), mac.text()));
        }
        return std::move(applied_);
    }

  private:
    // guest_ comes in with the file's name, and its UUID or a new one.
    Result<void> identify() {
        if (config_.uuid().empty()) {
            const auto known = TRY(ledger_.find({guest_.name, {}}));
            if (known && !known->guest.uuid.empty()) guest_.uuid = known->guest.uuid;
            return {};
        }
        const auto known = TRY(ledger_.find({{}, config_.uuid()}));
        if (!known || known->guest.name.empty() || known->guest.name == guest_.name ||
            clone_ == Clone::keep) {
            guest_.uuid = config_.uuid();
            return {};
        }
        if (clone_ == Clone::fresh) return {};
        return Error{
            EEXIST,
            fmt::format(
                "{}: UUID {} is guest {}'s in the pool, and {}'s here; --keep if {} is the same guest under "
                "a new name, --new if it is a copy",
                config_.origin(), config_.uuid(), known->guest.name, guest_.name, guest_.name)};
    }

    // Addresses of this guest that are at another place in the file now (a vif was removed, or moved) follow
    // it there.
    Result<void> renumber() {
        const GuestRecord record = TRY(ledger_.enter(guest_));
        std::map<unsigned, Mac> wanted;
        std::set<Mac> in_file;
        for (unsigned nic = 0; nic < config_.vifs(); ++nic) {
            const auto mac = config_.mac(nic);
            if (!mac) continue;
            if (!in_file.insert(*mac).second) {
                return Error{EINVAL, fmt::format("{}: two vifs have {}", config_.place(nic), mac->text())};
            }
            for (const auto& [number, held] : record.nics) {
                if (held == *mac && number != nic) wanted[nic] = *mac;
            }
        }
        for (const auto& [nic, mac] : wanted) {
            const auto old = record.nics.find(nic);
            if (old == record.nics.end() || in_file.contains(old->second)) continue;
            (void)TRY(ledger_.release(old->second));
            applied_.notes.push_back(fmt::format("{} was nic {}'s and is no longer in the file: released",
                                                 old->second.text(), nic));
        }
        return ledger_.renumber(guest_, wanted);
    }

    // The address for a vif whose line has one already.
    Result<Mac> settle(unsigned nic, Mac mac) {
        const auto lease = TRY(ledger_.holder(mac));
        const GuestRecord record = TRY(ledger_.enter(guest_));
        const auto have = record.nics.find(nic);
        if (lease && have != record.nics.end() && have->second == mac) return mac;
        if (!lease && have == record.nics.end()) {
            const auto granted = TRY(ledger_.reserve(mac, guest_, nic, Origin::import, config_.place(nic)));
            if (!granted.note.empty()) applied_.notes.push_back(mac.text() + ": " + granted.note);
            return mac;
        }
        if (clone_ == Clone::fresh) return TRY(ledger_.allocate(guest_, nic)).lease.mac;
        if (clone_ == Clone::ask) {
            const std::string why = lease ? fmt::format("{} is held by {}", mac.text(), holder_text(*lease))
                                          : fmt::format("the pool holds {} for {} nic {}",
                                                        have->second.text(), guest_.text(), nic);
            return Error{
                EEXIST,
                fmt::format("{}: {}; --keep gives {} to {}, --new writes another address into the file",
                            config_.place(nic), why, mac.text(), guest_.name)};
        }
        if (lease) {
            applied_.notes.push_back(fmt::format("{} was held by {}", mac.text(), holder_text(*lease)));
            TRY(ledger_.move(mac, guest_, nic));
            return mac;
        }
        applied_.notes.push_back(
            fmt::format("{} was nic {}'s in the pool: released", have->second.text(), nic));
        (void)TRY(ledger_.release(have->second));
        (void)TRY(ledger_.reserve(mac, guest_, nic, Origin::import, config_.place(nic)));
        return mac;
    }

    Ledger& ledger_;
    const XlConfig& config_;
    Clone clone_;
    Guest guest_;
    Applied applied_;
};

}  // namespace

Result<Applied> apply(Pool& pool, XlConfig& config, Clone clone) {
    if (config.name().empty()) return Error{EINVAL, config.origin() + ": no name = '...'"};
    const auto name = parse_guest_name(config.name());
    if (!name.ok()) return Error{EINVAL, fmt::format("{}: {}", config.origin(), name.error().message)};
    const Guest offered{name.value(), make_uuid()};
    Applied applied;
    TRY(pool.together([&](Ledger& ledger) -> Result<void> {
        applied = TRY(Application(ledger, config, clone, offered).run());
        return {};
    }));
    if (applied.uuid_written) config.set_uuid(applied.guest.uuid);
    for (const Applied::Nic& nic : applied.nics)
        config.set_mac(nic.nic, nic.mac);
    return applied;
}

}  // namespace ringback::mac
