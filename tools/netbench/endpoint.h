// SPDX-License-Identifier: Apache-2.0
//
// Endpoint: where frames go into what is measured, and where they come out.
//
//   ring,DOMID,MAC                 a guest of the embedded core: a netif frontend on XenBus, as a guest's kernel has it
//   packet,NAMESPACE,DEVICE,MAC    a packet socket on a device in a network namespace (one end of a veth)
//   virtio,SOCKET,MAC              DPDK's virtio-user, as the server of a vhost-user socket that Open vSwitch connects to
//
// All look at their rings and sleep never, so that they cost the same whatever stands between them.
//
// Thread: one at a time.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/result.h"
#include "tools/netbench/frames.h"

namespace ringback::netbench {

class Endpoint {
  public:
    virtual ~Endpoint() = default;
    // How many of them were taken, in order.
    [[nodiscard]] virtual size_t send(std::span<const Frame> frames) = 0;
    virtual void receive(Tally& tally) = 0;
    // What has gone wrong for good; empty: nothing.
    [[nodiscard]] virtual std::string broken() const { return {}; }

    bridge::MacAddress address{};  // frames from here come from it
};

[[nodiscard]] Result<std::unique_ptr<Endpoint>> open_ring(uint16_t domid);
[[nodiscard]] Result<std::unique_ptr<Endpoint>> open_packet(const std::string& name_space, const std::string& device);
// Waits until its other end has connected. All of them are made by one call, as DPDK is started once.
[[nodiscard]] Result<std::vector<std::unique_ptr<Endpoint>>> open_virtio(const std::vector<std::string>& sockets);
// What the words above say, in their order.
[[nodiscard]] Result<std::vector<std::unique_ptr<Endpoint>>> open_endpoints(const std::vector<std::string>& words);

}  // namespace ringback::netbench
