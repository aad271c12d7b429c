// SPDX-License-Identifier: Apache-2.0
//
// Records: what the keys of a pool hold, and how they are written. docs/mac-pool.md has the table of them.
//
// JSON, so that a person can read a damaged pool with sqlite3 or etcdctl. A record that does not read is
// damage (EUCLEAN) and is reported with its key, never skipped: skipping one would give its address out
// again.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "mac-pool/guest.h"
#include "mac-pool/permutation.h"
#include "mac-pool/space.h"

namespace ringback::mac {

struct Settings {
    std::vector<Range> ranges;
    std::vector<Range> exclusions;
    int64_t rest_seconds = 0;
    Key key{};

    // What `init` was asked for; the key is chosen, not asked for.
    [[nodiscard]] bool same_request(const Settings& other) const {
        return ranges == other.ranges && exclusions == other.exclusions && rest_seconds == other.rest_seconds;
    }
};

// Where drawing stands. The draws from `next` to `end` are still to come.
struct Progress {
    uint64_t next = 0;
    uint64_t end = 0;
    uint64_t released = 0;  // addresses ever released: the number of the next one
};

enum class Origin : uint8_t { pool, hand, import };
[[nodiscard]] const char* to_string(Origin origin);

struct Holding {
    std::string guest;  // id of a guest; empty: held for no guest
    unsigned nic = 0;
    Origin origin = Origin::pool;
    int64_t since = 0;
    std::string note;  // of an imported one: where it was seen
};

struct GuestRecord {
    Guest guest;
    std::map<unsigned, Mac> nics;
};

struct Resting {
    uint64_t number = 0;  // in the queue
    int64_t since = 0;
    int64_t until = 0;
};

// A guest's id: its UUID, or "name=NAME" while it has none.
[[nodiscard]] std::string guest_id(const Guest& guest);

namespace key {
inline const std::string kSettings = "pool";
inline const std::string kProgress = "progress";
inline const std::string kGuests = "guest/";
inline const std::string kNames = "name/";
inline const std::string kMacs = "mac/";
inline const std::string kResting = "resting/";  // by address
inline const std::string kQueue = "queue/";      // by order of release
inline const std::string kPaused = "pause/";     // exists while the address rests, then ends by itself
[[nodiscard]] std::string guest(const std::string& id);
[[nodiscard]] std::string names(const std::string& name);  // prefix: those of that name
[[nodiscard]] std::string name(const std::string& name, const std::string& uuid);
[[nodiscard]] std::string mac(Mac mac);
[[nodiscard]] std::string resting(Mac mac);
[[nodiscard]] std::string paused(Mac mac);
[[nodiscard]] std::string queue(uint64_t number);
[[nodiscard]] std::string draw_at(uint64_t position);  // the draw that moved to this position
[[nodiscard]] std::string position_of(uint64_t draw);  // the position that this draw moved to
}  // namespace key

[[nodiscard]] std::string write(const Settings& settings);
[[nodiscard]] std::string write(const Progress& progress);
[[nodiscard]] std::string write(const Holding& holding);
[[nodiscard]] std::string write(const GuestRecord& record);
[[nodiscard]] std::string write(const Resting& resting);
[[nodiscard]] std::string write(uint64_t number);

// `key` names the record in the error.
[[nodiscard]] Result<void> read(const std::string& key, const std::string& text, Settings& to);
[[nodiscard]] Result<void> read(const std::string& key, const std::string& text, Progress& to);
[[nodiscard]] Result<void> read(const std::string& key, const std::string& text, Holding& to);
[[nodiscard]] Result<void> read(const std::string& key, const std::string& text, GuestRecord& to);
[[nodiscard]] Result<void> read(const std::string& key, const std::string& text, Resting& to);
[[nodiscard]] Result<void> read(const std::string& key, const std::string& text, uint64_t& to);

// The address that a key mac/, resting/ or pause/ ends with.
[[nodiscard]] Result<Mac> mac_of_key(const std::string& key);

}  // namespace ringback::mac
