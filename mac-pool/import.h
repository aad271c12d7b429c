// SPDX-License-Identifier: Apache-2.0
//
// What a pool makes of sightings: `import` takes them in, `scan` says what is wrong with them.
#pragma once

#include "mac-pool/pool.h"
#include "mac-pool/sightings.h"

namespace ringback::mac {

struct Imported {
    uint64_t added = 0;
    uint64_t known = 0;
    std::vector<std::string> problems;  // addresses that somebody else holds
};

// Holds what was seen, for the guest it was seen at. Addresses outside the ranges too: the pool then refuses
// them to others.
[[nodiscard]] Result<Imported> import_sightings(Pool& pool, const std::vector<Sighting>& sightings);

enum class Fault : uint8_t {
    taken,      // somebody else has it than the pool says
    unknown,    // in the pool's ranges and not held: it would be given out
    duplicate,  // seen at two guests
};
[[nodiscard]] const char* to_string(Fault fault);

struct Clash {
    Mac mac;
    Fault fault = Fault::taken;
    std::string text;  // who and where
};

// Ascending by address. An address outside the ranges that nobody holds is nobody's business, unless two have
// it.
[[nodiscard]] Result<std::vector<Clash>> find_clashes(Pool& pool, const std::vector<Sighting>& sightings);

}  // namespace ringback::mac
