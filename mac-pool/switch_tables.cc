// SPDX-License-Identifier: Apache-2.0
#include "mac-pool/switch_tables.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if_bridge.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "runtime/control_client.h"
#include "runtime/unique_fd.h"

namespace ringback::mac {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr timeval kPatience{5, 0};             // for each piece of an answer
constexpr std::chrono::seconds kAnswerPatience{15};  // for a whole answer of netbackd
constexpr size_t kLargestAnswer = 64U << 20;  // a table of half a million

// Number to name.
std::map<unsigned, std::string> ports_of(const fs::path& bridge) {
    std::map<unsigned, std::string> ports;
    std::error_code error;
    for (fs::directory_iterator entry(bridge / "brif", error), end; !error && entry != end; entry.increment(error)) {
        std::ifstream file(entry->path() / "port_no");
        unsigned number = 0;
        if (file >> std::hex >> number) ports[number] = entry->path().filename();
    }
    return ports;
}

Result<void> see_bridge(const fs::path& bridge, Sightings& sightings) {
    const std::string table = bridge / "brforward";
    const UniqueFd file(::open(table.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file) return os_error("open " + table);
    const auto ports = ports_of(bridge);
    std::array<__fdb_entry, 256> entries{};
    while (true) {
        const ssize_t got = ::read(file.get(), entries.data(), sizeof entries);
        if (got < 0) return os_error("read " + table);
        if (got == 0) return {};
        for (size_t index = 0; index < static_cast<size_t>(got) / sizeof(__fdb_entry); ++index) {
            const __fdb_entry& entry = entries[index];
            if (entry.is_local != 0) continue;
            Mac mac;
            for (const uint8_t byte : entry.mac_addr)
                mac.value = mac.value << 8 | byte;
            if (mac.multicast() || mac.zero()) continue;
            const unsigned number = static_cast<unsigned>(entry.port_hi) << 8 | entry.port_no;
            const auto port = ports.find(number);
            sightings.found.push_back(
                {mac, Source::switch_table,
                 fmt::format("bridge {}, port {}", bridge.filename().string(),
                             port == ports.end() ? std::to_string(number) : port->second),
                 std::nullopt, 0});
        }
    }
}

// One call of JSON-RPC on a connection of its own; the answer's end is the end of its JSON.
Result<std::string> call(const std::string& path, const std::string& method, const json& parameters) {
    const std::string tried = fmt::format("ask {} for {}", path, method);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) return Error{ENAMETOOLONG, tried + ": the path is too long"};
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket) return os_error("create a socket");
    (void)::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof kPatience);
    (void)::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &kPatience, sizeof kPatience);
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) return os_error(tried);
    const std::string request = json{{"id", 0}, {"method", method}, {"params", parameters}}.dump();
    if (::send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(request.size())) {
        return os_error(tried);
    }
    std::string text;
    std::array<char, 65536> part{};
    while (true) {
        const ssize_t got = ::recv(socket.get(), part.data(), part.size(), 0);
        if (got < 0) return os_error(tried);
        if (got == 0) return Error{ECONNRESET, tried + ": the connection ended before the answer"};
        text.append(part.data(), static_cast<size_t>(got));
        if (text.size() > kLargestAnswer) return Error{EMSGSIZE, tried + ": the answer has no end"};
        // Cheaper than to parse after each piece.
        if (text.find_last_not_of(" \n") == std::string::npos || text[text.find_last_not_of(" \n")] != '}') continue;
        const json answer = json::parse(text, nullptr, false);
        if (!answer.is_object()) continue;
        if (const auto error = answer.find("error"); error != answer.end() && !error->is_null()) {
            return Error{EIO, fmt::format("{}: {}", tried, error->is_string() ? error->get<std::string>() : error->dump())};
        }
        const auto result = answer.find("result");
        if (result == answer.end() || !result->is_string()) return Error{EPROTO, tried + ": an answer without a result"};
        return result->get<std::string>();
    }
}

// " port  VLAN  MAC                Age", and such a line for each.
void see_table(const std::string& bridge, const std::string& table, Sightings& sightings) {
    std::istringstream lines(table);
    for (std::string line; std::getline(lines, line);) {
        std::istringstream words(line);
        std::string port;
        std::string vlan;
        std::string text;
        if (!(words >> port >> vlan >> text) || port == "LOCAL") continue;
        const auto mac = parse_unicast(text);
        if (!mac.ok()) continue;
        sightings.found.push_back({mac.value(), Source::switch_table,
                                   fmt::format("Open vSwitch bridge {}, port {}, VLAN {}", bridge, port, vlan),
                                   std::nullopt, 0});
    }
}

Result<void> see_daemon(const std::string& directory, const std::string& pid, Sightings& sightings) {
    const std::string socket = fmt::format("{}/ovs-vswitchd.{}.ctl", directory, pid);
    std::istringstream bridges(TRY(call(socket, "ofproto/list", json::array())));
    for (std::string bridge; bridges >> bridge;) {
        see_table(bridge, TRY(call(socket, "fdb/show", json::array({bridge}))), sightings);
    }
    return {};
}

std::string text_of(const json& object, const char* name) {
    const auto at = object.is_object() ? object.find(name) : object.end();
    return at != object.end() && at->is_string() ? at->get<std::string>() : std::string();
}

// The list that an answer of netbackd must have.
Result<json> list_of(const json& answer, const char* name, const std::string& socket) {
    const auto at = answer.find(name);
    if (at == answer.end() || !at->is_array())
        return Error{EPROTO, fmt::format("ask {} for its switches: an answer without {}", socket, name)};
    return *at;
}

Result<void> see_ringback_switches(const std::string& socket, Sightings& sightings) {
    const auto daemon = ask(socket, {{"command", "doctor-info"}}, kAnswerPatience);
    if (!daemon.ok() && (daemon.error().code == ENOENT || daemon.error().code == ECONNREFUSED)) return {};
    if (!daemon.ok()) return daemon.error();
    for (const json& name : TRY(list_of(daemon.value(), "switches", socket))) {
        if (!name.is_string()) return Error{EPROTO, fmt::format("ask {} for its switches: one without a name", socket)};
        const json table = TRY(ask(socket, {{"command", "switch-table"}, {"switch", name}}, kAnswerPatience));
        for (const json& entry : TRY(list_of(table, "entries", socket))) {
            const auto mac = parse_unicast(text_of(entry, "mac"));
            if (!mac.ok()) continue;
            const auto vlan = entry.find("vlan");  // an object: it has a mac
            const std::string guest = text_of(entry, "guest");
            sightings.found.push_back({mac.value(), Source::switch_table,
                                       fmt::format("Ringback switch {}, port {}{}, VLAN {}", name.get<std::string>(),
                                                   text_of(entry, "device"), guest.empty() ? "" : " of guest " + guest,
                                                   vlan == entry.end() ? "?" : vlan->dump()),
                                       std::nullopt, 0});
        }
    }
    return {};
}

}  // namespace

Sightings see_bridges(const std::string& directory) {
    Sightings sightings;
    std::error_code error;
    std::vector<fs::path> bridges;
    for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
        std::error_code none;
        if (fs::exists(entry->path() / "brforward", none)) bridges.push_back(entry->path());
    }
    if (error) sightings.problems.push_back(fmt::format("read directory {}: {}", directory, error.message()));
    std::ranges::sort(bridges);
    for (const fs::path& bridge : bridges) {
        if (const auto seen = see_bridge(bridge, sightings); !seen.ok()) sightings.problems.push_back(seen.error().message);
    }
    return sightings;
}

Sightings see_open_vswitch(const std::string& directory) {
    Sightings sightings;
    std::ifstream file(directory + "/ovs-vswitchd.pid");
    std::string pid;
    if (!(file >> pid)) return sightings;  // it does not run here
    if (const auto seen = see_daemon(directory, pid, sightings); !seen.ok()) sightings.problems.push_back(seen.error().message);
    return sightings;
}

Sightings see_netbackd(const std::string& socket) {
    Sightings sightings;
    if (const auto seen = see_ringback_switches(socket, sightings); !seen.ok()) sightings.problems.push_back(seen.error().message);
    return sightings;
}

}  // namespace ringback::mac
