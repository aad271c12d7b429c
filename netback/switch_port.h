// SPDX-License-Identifier: Apache-2.0
//
// A vif as a port of the built-in switch, as the toolstack's nodes and netbackd's settings say it: which vif is one, and with
// what rules.
//
// Its hotplug script is vif-ringback (`script=vif-ringback` in xl's vif line); then `bridge` names a switch of netbackd.toml,
// with VLANs in the form of vif-openvswitch. There is nothing to open: the worker puts it on the switch when it is connected.
#pragma once

#include "netback/port.h"

namespace ringback::net {

// The script of ports that have no network device: of the switch, or of Open vSwitch with DPDK.
[[nodiscard]] bool has_own_script(const NicNodes& nodes);
// An error says what is wrong with which setting of the NIC.
[[nodiscard]] Result<SwitchPort> make_switch_port(const NicNodes& nodes, const Config& config);

class SwitchedPort : public Port {
  public:
    explicit SwitchedPort(const SwitchPort& port) : port_(port) {}

    void open(bool, Done done) override { done({}); }
    void close(Done done) override { done({}); }
    [[nodiscard]] Result<void> connect(Connect& offer, std::vector<UniqueFd>&) override {
        offer.kind = PortKind::switched;
        offer.port = port_;
        return {};
    }
    // Its rules are ours to say; the worker may keep others, if only our former settings.
    [[nodiscard]] Adopted adopt(const Connect& parameters, std::vector<UniqueFd> descriptors) override {
        if (parameters.kind != PortKind::switched || !descriptors.empty()) return Adopted::no;
        return parameters.port == port_ ? Adopted::yes : Adopted::with_other_rules;
    }
    [[nodiscard]] const char* mode() const override { return "switch"; }
    [[nodiscard]] std::string place() const override { return "on switch " + port_.name.str(); }

  private:
    const SwitchPort port_;
};

}  // namespace ringback::net
