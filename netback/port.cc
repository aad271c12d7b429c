// SPDX-License-Identifier: Apache-2.0
#include "netback/port.h"

#include <fcntl.h>
#include <fmt/format.h>

#include "netback/ovs_port.h"
#include "netback/switch_port.h"
#include "netback/tap_port.h"

namespace ringback::net {

Result<UniqueFd> duplicate(int fd) {
    UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (!copy) return os_error("duplicate a descriptor");
    return copy;
}

Result<std::unique_ptr<Port>> make_port(const PortTools& tools, const xen::DeviceId& id, const NicNodes& nodes,
                                        std::function<void()> changed) {
    if (!has_own_script(nodes)) return std::unique_ptr<Port>(std::make_unique<TapPort>(tools, id, nodes));
    const bridge::BridgeName name = TRY(bridge::parse_bridge_name(nodes.bridge));
    if (tools.open_vswitch != nullptr && tools.config.has_ovs_bridge(name.name)) {
        return std::unique_ptr<Port>(std::make_unique<OvsPort>(tools, id, TRY(make_ovs_port(nodes, id, tools.config)), std::move(changed)));
    }
    return std::unique_ptr<Port>(std::make_unique<SwitchedPort>(TRY(make_switch_port(nodes, tools.config))));
}

}  // namespace ringback::net
