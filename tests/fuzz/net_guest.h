// SPDX-License-Identifier: Apache-2.0
//
// NetGuest: a guest's half of a vif, which puts anything on its rings, and the worker's Vif of the same. The targets netif (its
// port stands for a TAP) and switch (two of them on one switch) play it.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "fake_xen.h"
#include "netback/worker/vif.h"
#include "target.h"

namespace ringback::fuzz {

// What all vifs of a worker share.
struct NetBackend {
    xen::EventChannels events = must(xen::EventChannels::open());
    std::vector<xen::GrantTable> grants;
    net::worker::Batch batch;
    std::vector<net::worker::Queue*> queues_by_port;
    net::worker::Fabric fabric;
    NetBackend() { grants.push_back(must(xen::GrantTable::open())); }
    static NetBackend& get();
};

class NetGuest {
  public:
    // Its rings are in the pages from `first_page` on, two a queue. `switched`: a port of the switch "sw".
    NetGuest(Input& input, uint32_t handle, uint32_t first_page, bool switched);
    ~NetGuest();
    NetGuest(const NetGuest&) = delete;
    NetGuest& operator=(const NetGuest&) = delete;

    void step();
    void disconnect();
    void turn(uint32_t times);

  private:
    void connect(bool resumed);
    void put_packet();
    void put_raw();
    void put_buffers();
    void from_port();
    void look_at_port();
    void scribble_journal();
    [[nodiscard]] uint16_t queue() { return static_cast<uint16_t>(input_.below(parameters_.queue_count)); }
    [[nodiscard]] xen::SharedRingHeader& ring(uint32_t ref) {
        return *reinterpret_cast<xen::SharedRingHeader*>(FakeXen::get().page(ref).data());
    }
    [[nodiscard]] xen::GrantRef data_page();
    template <typename Entry>
    void put(uint32_t ref, uint32_t& produced, const Entry& entry);

    Input& input_;
    const net::worker::VifId id_;
    const bool switched_;
    net::Connect parameters_{};
    std::array<uint32_t, 2> tx_produced_{};
    std::array<uint32_t, 2> rx_produced_{};
    UniqueFd journal_;
    std::vector<UniqueFd> wires_;  // the other ends of its ports
    std::unique_ptr<net::worker::Vif> vif_;
    int failed_ = 0;
};

// Bytes of a frame that is nearly right: an input changes some of them.
[[nodiscard]] std::vector<std::byte> some_frame(Input& input);
// Changes some of the guest's memory.
void change_memory(Input& input);

}  // namespace ringback::fuzz
