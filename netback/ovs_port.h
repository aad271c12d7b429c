// SPDX-License-Identifier: Apache-2.0
//
// OvsPort: a vif that is a port of an Open vSwitch with DPDK: rings in shared memory between the worker and ovs-vswitchd.
//
// Its hotplug script is vif-ringback, and `bridge` names one of [ovs-dpdk] bridges in netbackd.toml. The port is added to the bridge
// before the backend says InitWait. Open vSwitch then connects to our socket, and is handed the rings when the guest is connected
// (bridge/vhost/server.h); so its link is up when the guest's is.
//
// Who dies: the worker, and its successor gets the same rings, which Open vSwitch does not notice. This supervisor: the worker
// keeps the connection and gives it to the next one. Open vSwitch: frames are dropped until it connects again.
//
// Thread: the supervisor's.
#pragma once

#include <optional>
#include <utility>

#include "bridge/vhost/server.h"
#include "netback/port.h"
#include "runtime/log.h"

namespace ringback::net {

// Where Open vSwitch finds us.
[[nodiscard]] std::string vhost_path(const Config& config, const xen::DeviceId& id);
// An error says what is wrong with which setting of the NIC.
[[nodiscard]] Result<bridge::OpenVSwitch::Port> make_ovs_port(const NicNodes& nodes, const xen::DeviceId& id, const Config& config);

class OvsPort : public Port {
  public:
    OvsPort(const PortTools& tools, const xen::DeviceId& id, bridge::OpenVSwitch::Port port, std::function<void()> changed);
    ~OvsPort() override;

    void open(bool on_network, Done done) override;
    void close(Done done) override;
    [[nodiscard]] Result<void> connect(Connect& offer, std::vector<UniqueFd>& descriptors) override;
    [[nodiscard]] Adopted adopt(const Connect& parameters, std::vector<UniqueFd> descriptors) override;
    void set_carrier(bool on) override;
    void rings_gone() override;
    [[nodiscard]] bool take_change() override { return std::exchange(changed_, false); }
    [[nodiscard]] PortState state() const override { return state_; }
    [[nodiscard]] Result<void> keep(std::vector<UniqueFd>& descriptors) override;
    [[nodiscard]] const char* mode() const override { return "ovs-dpdk"; }
    [[nodiscard]] std::string place() const override { return "on bridge " + port_.bridge + " of Open vSwitch"; }

  private:
    [[nodiscard]] Result<void> listen();
    [[nodiscard]] Result<void> make_rings(size_t queues);
    void hand_over(const Connect& parameters);
    void set_state(const PortState& state);

    PortTools tools_;
    const std::string owner_;
    const bridge::OpenVSwitch::Port port_;
    const std::function<void()> on_change_;
    std::optional<bridge::OpenVSwitch::Ticket> order_;
    std::unique_ptr<bridge::vhost::Server> server_;
    std::optional<bridge::vhost::RingMemory> rings_;
    std::vector<UniqueFd> events_;  // of each queue: what Open vSwitch notifies
    PortState state_{};
    bool changed_ = false;
    LogLimiter limiter_;
};

}  // namespace ringback::net
