// SPDX-License-Identifier: Apache-2.0
//
// A line on a control socket: what is asked, and what is made of it. What the commands do then is driven by the targets
// blk_xenbus and net_xenbus.
#include <nlohmann/json.hpp>

#include "runtime/control.h"
#include "target.h"

using namespace ringback;
using namespace ringback::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const std::string line(reinterpret_cast<const char*>(data), std::min(size, kMaxControlLine));
    const MemoryLimit limit((64U << 10) + 256 * line.size());
    const auto request = parse_control_request(line);
    if (!request) {
        // The answer repeats what was said, whatever bytes that was.
        (void)control_error(request.error().message).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
        return 0;
    }
    INVARIANT(request.value().arguments.is_object());
    for (const char* key : {"guest", "device", "switch", "kind"}) (void)request.value().text(key);
    for (const char* key : {"domid", "devid", "bytes", "timeout"}) {
        const auto number = request.value().number(key, 1000);
        INVARIANT(!number || !number.value() || *number.value() <= 1000);
    }
    return 0;
}
