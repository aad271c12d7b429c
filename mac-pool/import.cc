// SPDX-License-Identifier: Apache-2.0
#include "mac-pool/import.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace ringback::mac {

namespace {

std::string seen_text(const Sighting& sighting) {
    std::string text = fmt::format("{} {}", to_string(sighting.source), sighting.where);
    if (sighting.guest) text += fmt::format(", {} nic {}", sighting.guest->text(), sighting.nic);
    return text;
}

Result<void> import_one(Ledger& ledger, const Sighting& sighting, Imported& imported) {
    const auto lease = TRY(ledger.holder(sighting.mac));
    // Whoever is seen where no guest is named may be the one who holds it.
    const bool same = lease && (!sighting.guest || same_guest(lease->guest, *sighting.guest));
    if (same && !sighting.guest) {
        ++imported.known;
        return {};
    }
    if (same && !lease->guest.name.empty() && lease->guest.name != sighting.guest->name) {
        imported.problems.push_back(fmt::format(
            "{}: UUID {} is guest {}'s in the pool; `macpool apply` with --keep or --new says who it is",
            seen_text(sighting), lease->guest.uuid, lease->guest.name));
        return {};
    }
    if (same) {
        (void)TRY(ledger.enter(*sighting.guest));
        ++imported.known;
        return {};
    }
    const std::string note = fmt::format("{} {}", to_string(sighting.source), sighting.where);
    const auto granted = ledger.reserve(sighting.mac, sighting.guest, sighting.nic, Origin::import, note);
    if (granted.ok()) {
        ++imported.added;
    } else if (granted.error().code == EEXIST) {
        imported.problems.push_back(fmt::format("{}, seen at {}: {}", sighting.mac.text(),
                                                seen_text(sighting), granted.error().message));
    } else {
        return granted.error();
    }
    return {};
}

}  // namespace

Result<Imported> import_sightings(Pool& pool, const std::vector<Sighting>& sightings) {
    Imported all;
    Imported some;  // of the part that is not committed yet
    size_t begun = 0;
    const auto take = [&] {
        all.added += some.added;
        all.known += some.known;
        std::ranges::move(some.problems, std::back_inserter(all.problems));
    };
    TRY(pool.together(sightings.size(), [&](Ledger& ledger, size_t from, size_t to) -> Result<void> {
        if (from != begun) take();
        begun = from;
        some = {};
        std::vector<std::pair<Mac, std::optional<Guest>>> coming;
        for (size_t index = from; index < to; ++index) {
            coming.emplace_back(sightings[index].mac, sightings[index].guest);
        }
        TRY(ledger.expect(coming));
        for (size_t index = from; index < to; ++index)
            TRY(import_one(ledger, sightings[index], some));
        return {};
    }));
    take();
    return all;
}

const char* to_string(Fault fault) {
    switch (fault) {
        case Fault::taken:
            return "taken";
        case Fault::unknown:
            return "unknown";
        case Fault::duplicate:
            return "duplicate";
    }
    return "?";
}

Result<std::vector<Clash>> find_clashes(Pool& pool, const std::vector<Sighting>& sightings) {
    std::map<Mac, std::vector<const Sighting*>> seen;
    for (const Sighting& sighting : sightings)
        seen[sighting.mac].push_back(&sighting);
    std::map<Mac, Lease> leases;
    TRY(pool.each_lease([&](const Lease& lease) {
        if (seen.contains(lease.mac)) leases.emplace(lease.mac, lease);
    }));
    std::vector<Clash> clashes;
    for (const auto& [mac, places] : seen) {
        const auto lease = leases.find(mac);
        for (size_t index = 0; index < places.size(); ++index) {
            const Sighting& here = *places[index];
            const std::string text = fmt::format("{} is in use at {}", mac.text(), seen_text(here));
            for (size_t before = 0; before < index; ++before) {
                const Sighting& there = *places[before];
                if (!here.guest || !there.guest) continue;
                // Two files with one UUID and two names: a copy whose UUID nobody changed.
                const bool copied = here.source == Source::xl_config && there.source == Source::xl_config &&
                                    here.guest->name != there.guest->name;
                if (same_guest(*here.guest, *there.guest) && !copied) continue;
                clashes.push_back(
                    {mac, Fault::duplicate, fmt::format("{}, and at {}", text, seen_text(there))});
                break;
            }
            if (lease == leases.end()) {
                if (!pool.contains(mac)) continue;
                clashes.push_back(
                    {mac, Fault::unknown,
                     text + ", and the pool does not know; `macpool import` or `macpool reserve` tells it"});
                continue;
            }
            // A switch sees an address and not whose it is. What is held for no guest is the host's own.
            const bool held_for_guest = !(lease->second.guest == Guest{});
            const bool fits = here.source == Source::switch_table ||
                              (here.source == Source::host_nic && !held_for_guest) ||
                              (here.guest && held_for_guest && same_guest(*here.guest, lease->second.guest));
            if (!fits)
                clashes.push_back(
                    {mac, Fault::taken, fmt::format("{}, and held by {}", text, holder_text(lease->second))});
        }
    }
    return clashes;
}

}  // namespace ringback::mac
