// SPDX-License-Identifier: Apache-2.0
//
// The subcommands of `ringback`. Each prints to standard output, errors to standard error, and returns the exit code.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "runtime/control_client.h"

namespace ringback::tools {

inline constexpr const char* kControlSocket = "/run/ringback/blkbackd.sock";
inline constexpr const char* kNetControlSocket = "/run/ringback/netbackd.sock";

// Of both daemons; one that does not run is only an error when the other one does not either.
int status(const std::string& socket, const std::string& net_socket, const std::string& guest, bool json);
// `bytes` 0: look at the storage again.
int resize(const std::string& socket, const std::string& guest, const std::string& vdev, uint64_t bytes);
struct ThrottleChange {
    std::optional<uint64_t> operations, bytes, burst_ms, weight;
    std::optional<std::string> join;
    bool off = false;
};
// `what`: a guest, or group:NAME. With nothing to change it says what holds.
int throttle(const std::string& socket, const std::string& what, const std::string& vdev, const ThrottleChange& change, bool json);
// Who is behind which port of a built-in switch.
int switch_table(const std::string& net_socket, const std::string& name, bool json);
int doctor(const std::string& socket, const std::string& net_socket);

// "20.0 GiB"
[[nodiscard]] std::string human_size(uint64_t bytes);

}  // namespace ringback::tools
