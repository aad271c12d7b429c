// SPDX-License-Identifier: Apache-2.0
//
// The client's end of a daemon's control socket (control.h): one request, one answer.
#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>

#include "runtime/result.h"

namespace ringback {

// The answer, when its "ok" is true; otherwise its "error". ECONNREFUSED or ENOENT: no daemon is there.
[[nodiscard]] Result<nlohmann::json> ask(const std::string& socket, nlohmann::json request,
                                         std::chrono::milliseconds patience);

}  // namespace ringback
