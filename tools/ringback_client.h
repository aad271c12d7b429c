// SPDX-License-Identifier: Apache-2.0
//
// The client's end of blkbackd's control socket (docs/control-protocol.md): one request, one answer.
#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>

#include "runtime/result.h"

namespace ringback::tools {

inline constexpr const char* kControlSocket = "/run/ringback/blkbackd.sock";
inline constexpr const char* kNetControlSocket = "/run/ringback/netbackd.sock";

// The answer, when its "ok" is true; otherwise its "error". ECONNREFUSED or ENOENT: no daemon is there.
[[nodiscard]] Result<nlohmann::json> ask(const std::string& socket, nlohmann::json request,
                                         std::chrono::milliseconds patience);

}  // namespace ringback::tools
