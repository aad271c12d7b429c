// SPDX-License-Identifier: Apache-2.0
//
// Sightings: MAC addresses in use, wherever this host can see them: xl configurations, xenstore, its own
// NICs, and the table of a switch, as text here and running in switch_tables.h. What `import` takes into a pool and `scan` compares with it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mac-pool/guest.h"
#include "mac-pool/space.h"

namespace ringback::xen {
class Store;
}

namespace ringback::mac {

enum class Source : uint8_t { xl_config, xenstore, host_nic, switch_table };
[[nodiscard]] const char* to_string(Source source);

struct Sighting {
    Mac mac;
    Source source = Source::xl_config;
    std::string where;           // "/etc/xen/web.cfg:7", "domain 3", "eth0"
    std::optional<Guest> guest;  // of a configuration and of xenstore
    unsigned nic = 0;
};

// What was found, and what could not be read: one bad file does not hide the others.
struct Sightings {
    std::vector<Sighting> found;
    std::vector<std::string> problems;

    void add(Sightings other);
};

// Files; of a directory all that end in .cfg. A vif without mac= is no sighting.
[[nodiscard]] Sightings see_xl_configs(const std::vector<std::string>& paths);
[[nodiscard]] Sightings see_xenstore(const xen::Store& store);
// `directory` is /sys/class/net. Without those that have no address of their own (lo, and the
// fe:ff:ff:ff:ff:ff of backends).
[[nodiscard]] Sightings see_host_nics(const std::string& directory);
// The first MAC address of each line: what `bridge fdb show` and `ovs-appctl fdb/show BRIDGE` print.
// Multicast entries are left out. `path` "-" is standard input.
[[nodiscard]] Sightings see_switch_table(const std::string& path);

}  // namespace ringback::mac
