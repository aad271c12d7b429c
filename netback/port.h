// SPDX-License-Identifier: Apache-2.0
//
// Port: how a vif reaches its network, as the supervisor sees it. There are three: a TAP for the stock scripts, a place in the
// built-in switch, and a port of an Open vSwitch with DPDK. Which one a vif has is what the toolstack's nodes say (make_port()).
//
// A port is opened before the backend says InitWait, and closed when the vif is taken away; that may take time, so its end is
// told. In between the worker gets it with each connection, and a new supervisor gets it back from the worker.
//
// Nothing here is on the data path. Thread: the supervisor's.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bridge/link.h"
#include "bridge/open_vswitch.h"
#include "hypervisor/xenbus.h"
#include "netback/config.h"
#include "netback/worker_protocol.h"
#include "runtime/event_loop.h"
#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace ringback::net {

// The nodes of a vif that matter to its port.
struct NicNodes {
    std::string script{};
    std::string bridge{};
    std::string mac{};
    std::string ip{};
    std::string vifname{};
    std::string mtu{};
};

// What ports work with; all of it outlives them.
struct PortTools {
    EventLoop& loop;
    bridge::Links& links;
    const Config& config;
    bridge::OpenVSwitch* open_vswitch = nullptr;  // none configured: none
    std::string sysfs = "/sys";
};

class Port {
  public:
    using Done = std::function<void(const Result<void>&)>;
    enum class Adopted : uint8_t { no, yes, with_other_rules };

    virtual ~Port() = default;
    // Puts it there; on error nothing is left. `on_network`: the vif's script has run, so one of an earlier life of ours is
    // to be taken up as it is. `done` is called once, maybe from inside, and not after the port's destruction.
    virtual void open(bool on_network, Done done) = 0;
    // Takes it away.
    virtual void close(Done done) = 0;
    // What a worker is to be told and given.
    [[nodiscard]] virtual Result<void> connect(Connect& offer, std::vector<UniqueFd>& descriptors) = 0;
    // What a worker has had from an earlier supervisor, without the journal; the port is open then.
    [[nodiscard]] virtual Adopted adopt(const Connect& parameters, std::vector<UniqueFd> descriptors) = 0;
    // The worker is about to let go of it, or has got it.
    virtual void set_carrier(bool) {}
    // The guest's rings are gone.
    virtual void rings_gone() {}

    // A change that the connected worker has to be told, asked for once.
    [[nodiscard]] virtual bool take_change() { return false; }
    [[nodiscard]] virtual PortState state() const { return {1, 1, 1, 1}; }
    // Appends what is to be kept for the next supervisor.
    [[nodiscard]] virtual Result<void> keep(std::vector<UniqueFd>&) { return {}; }

    [[nodiscard]] virtual const char* mode() const = 0;
    // The name of the host's network device, "" for none; for a person, where the vif is.
    [[nodiscard]] virtual std::string interface() const { return ""; }
    [[nodiscard]] virtual std::string place() const = 0;
};

[[nodiscard]] Result<UniqueFd> duplicate(int fd);

// `changed` is called when there is a change to be taken. An error says what is wrong with which setting of the NIC.
[[nodiscard]] Result<std::unique_ptr<Port>> make_port(const PortTools& tools, const xen::DeviceId& id, const NicNodes& nodes,
                                                      std::function<void()> changed);

}  // namespace ringback::net
