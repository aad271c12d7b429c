// SPDX-License-Identifier: Apache-2.0
//
// OpenVSwitch: ports for vifs in bridges of a running Open vSwitch with DPDK, put there and taken away by ovs-vsctl.
//
// ovs-vsctl waits until Open vSwitch has done what it was told, which may be never. So it runs on a thread of its own with a
// limit of time, and answers come by the loop. Orders are followed one after the other, so that of two for the same name the later
// one stands. What cannot be taken away now, as Open vSwitch is down, is tried again until it is, or somebody wants the name.
//
// Each port says in its external_ids:ringback whose it is; so what a crash has left is found (keep_only()). Nothing else in the
// database is changed.
//
// Thread: the event loop's, but for follow().
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "runtime/event_loop.h"
#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace ringback::bridge {

class OpenVSwitch {
  public:
    struct Port {
        std::string name;
        std::string bridge;
        std::string socket;  // of vhost-user, where we listen
        std::string owner;   // what external_ids:ringback says
        std::string mac;
        uint16_t vlan = 0;   // of untagged frames; 0: none
        std::vector<uint16_t> trunks{};
        uint32_t mtu = 0;    // 0: Open vSwitch's default
    };
    using Done = std::function<void(const Result<void>&)>;
    using Ticket = uint64_t;

    // `database`: as ovs-vsctl's --db. `command`: ovs-vsctl, looked for in PATH.
    [[nodiscard]] static Result<std::unique_ptr<OpenVSwitch>> start(EventLoop& loop, std::string database,
                                                                    std::string command = "ovs-vsctl");
    // Waits for a command that is under way: some seconds at most.
    ~OpenVSwitch();
    OpenVSwitch(const OpenVSwitch&) = delete;
    OpenVSwitch& operator=(const OpenVSwitch&) = delete;

    // `done` comes from the loop, once. `fresh`: in the place of one of that name; else one that is there stays as it is.
    Ticket add(const Port& port, bool fresh, Done done);
    Ticket remove(const std::string& name, Done done);
    // `done` is not called any more; the order is followed.
    void forget(Ticket ticket) { open_.erase(ticket); }
    // Removes ports of ours of any other owner.
    void keep_only(std::set<std::string> owners);

  private:
    struct Order {
        Ticket ticket;
        std::function<Result<void>()> run;  // on the thread
    };
    OpenVSwitch(EventLoop& loop, std::string database, std::string command, UniqueFd answered);
    Ticket give(std::function<Result<void>()> run, Done done);
    void take_answers();
    // The thread's.
    void follow();
    [[nodiscard]] Result<std::string> vsctl(const std::vector<std::string>& words) const;
    [[nodiscard]] Result<void> check(const std::string& bridge) const;
    [[nodiscard]] Result<void> put(const Port& port, bool fresh);
    [[nodiscard]] Result<void> take_away(const std::string& name);
    [[nodiscard]] Result<void> sweep(const std::set<std::string>& owners);
    void try_leftovers();

    EventLoop& loop_;
    const std::string database_;
    const std::string command_;
    UniqueFd answered_;  // an eventfd
    Ticket next_ = 1;
    std::map<Ticket, Done> open_;
    std::set<std::string> leftovers_;  // the thread's

    std::mutex lock_;  // of what follows; never held over a command
    std::condition_variable wake_;
    std::deque<Order> orders_;
    std::vector<std::pair<Ticket, Result<void>>> answers_;
    bool stopping_ = false;
    std::thread thread_;
};

}  // namespace ringback::bridge
