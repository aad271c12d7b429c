// SPDX-License-Identifier: Apache-2.0
//
// TapPort: a vif that is a TAP of the host, for the stock hotplug scripts and whatever they put it into.
//
// Its queues stay open here for as long as the vif exists; the worker gets duplicates. So a worker's death leaves the network
// device as it is, and its successor gets the same queues.
//
// Thread: the supervisor's.
#pragma once

#include <optional>

#include "bridge/tap.h"
#include "netback/port.h"
#include "runtime/log.h"

namespace ringback::net {

class TapPort : public Port {
  public:
    TapPort(const PortTools& tools, const xen::DeviceId& id, const NicNodes& nodes);

    void open(bool on_network, Done done) override;
    void close(Done done) override;
    [[nodiscard]] Result<void> connect(Connect& offer, std::vector<UniqueFd>& descriptors) override;
    [[nodiscard]] Adopted adopt(const Connect& parameters, std::vector<UniqueFd> descriptors) override;
    void set_carrier(bool on) override;
    void rings_gone() override;
    [[nodiscard]] const char* mode() const override { return "tap"; }
    [[nodiscard]] std::string interface() const override;
    [[nodiscard]] std::string place() const override { return "as " + interface(); }

  private:
    [[nodiscard]] Result<void> try_open(bool on_network);

    PortTools tools_;
    const std::string owner_;
    const std::string name_;
    const std::string renamed_;  // what the hotplug script calls it, if it does
    std::optional<bridge::Tap> tap_;
    LogLimiter limiter_;
};

}  // namespace ringback::net
