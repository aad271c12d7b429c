// SPDX-License-Identifier: Apache-2.0
//
// `ringback hotplug add|remove`: the body of the script block-ringback.
//
// A program and not shell because of what it has to get right: one transaction that does not bring a removed directory
// back to life, and a text of any content.
#pragma once

#include <string>

namespace ringback::tools {

// The exit code. `xenbus_path` as libxl has it in XENBUS_PATH: backend/vbd/DOMID/DEVID.
int hotplug(const std::string& action, const std::string& xenbus_path, const std::string& control_socket);

}  // namespace ringback::tools
