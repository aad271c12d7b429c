// SPDX-License-Identifier: Apache-2.0
//
// Guest: who holds an address. A guest is its UUID; its name can change and can be used again.
//
// Until a UUID has been seen the name has to do: `macpool allocate --guest web` may come before web's
// configuration exists. The first UUID that comes with that name takes over what the name held.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "runtime/result.h"

namespace ringback::mac {

// What a caller knows of a guest: one of both, or both. The UUID is in canonical form (8-4-4-4-12, lower
// case).
struct Guest {
    std::string name;
    std::string uuid;

    bool operator==(const Guest&) const = default;
    // "web (6f2c...)", or what there is of it.
    [[nodiscard]] std::string text() const;
};

// Whether both mean one guest: by UUID where both have one, else by name.
[[nodiscard]] bool same_guest(const Guest& one, const Guest& other);

// The canonical form; EINVAL for what is not a UUID. Takes what xl takes: hex digits with or without the
// dashes.
[[nodiscard]] Result<std::string> parse_uuid(std::string_view text);
// A random one (version 4).
[[nodiscard]] std::string make_uuid();

// 1 to 255 bytes of UTF-8 without slashes and control characters: what may be part of a key, and of a line of
// output.
[[nodiscard]] Result<std::string> parse_guest_name(std::string_view text);

// What a person typed to name a guest.
enum class GuestWord : uint8_t { name, domid, uuid };
[[nodiscard]] GuestWord classify_guest(std::string_view text);

}  // namespace ringback::mac
