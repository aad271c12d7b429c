// SPDX-License-Identifier: Apache-2.0
//
// Throttler: turns what the administrator allows (throttle_book.h) into one limit for each disk, and keeps the workers told.
//
// A worker throttles its disks, each by itself (worker/throttle.h). What several disks share, a guest's or a group's rate, is
// dealt out here, anew every few hundred milliseconds, by what each asked for lately: a bucket that workers share would be one
// that a worker which was taken over can empty or fill for the others. Between two deals a shared rate is therefore not used up
// by those who came meanwhile, and never exceeded. Nobody is asked anything while nothing is shared.
//
// Thread: the supervisor's.
#pragma once

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "blkback/device.h"
#include "blkback/throttle_book.h"
#include "runtime/control.h"

namespace ringback::blk {

class Throttler {
  public:
    Throttler(EventLoop& loop, const xen::Store& store, std::string file) : loop_(loop), store_(store), book_(std::move(file)) {}
    ~Throttler();
    Throttler(const Throttler&) = delete;
    Throttler& operator=(const Throttler&) = delete;

    // A file that cannot be read limits nobody.
    void load();
    // Whenever a device was looked at; before it is destroyed.
    void saw(Device& device);
    void gone(const xen::DeviceId& id);

    // The command `throttle` (docs/control-protocol.md).
    void command(const ControlRequest& request, const Responder& respond);
    // Of one disk, for `status`; null: not limited.
    [[nodiscard]] nlohmann::json describe(const xen::DeviceId& id) const;

  private:
    using Clock = EventLoop::Clock;

    // An open disk. `operations` and `bytes` are what it took a second between the latest two answers.
    struct Member {
        Device* device = nullptr;
        std::string uuid;
        DiskThrottle own;
        std::optional<Limit> limit;  // what its worker was told
        std::optional<Limit> next;   // what it is told when it has answered: one that hangs collects no more than one message
        bool asked = false;
        bool held = false;  // it wanted more than it was given
        std::optional<Stats> stats;
        Clock::time_point at{};
        std::optional<double> operations, bytes;
    };
    struct Pool {
        Rate rate;
        std::vector<Member*> members;
    };
    struct Asked;

    [[nodiscard]] std::vector<Pool> pools();
    void deal();
    void tell(Member& member, const Limit& limit);
    void answered(Member& member, const Answer& answer);
    [[nodiscard]] Result<nlohmann::json> change(const ControlRequest& request);
    [[nodiscard]] Result<nlohmann::json> change_group(const std::string& name, const Asked& asked);
    [[nodiscard]] Result<nlohmann::json> change_guest(const std::string& uuid, const Asked& asked);
    [[nodiscard]] Result<nlohmann::json> change_disk(const ThrottleBook::Disk& disk, const Asked& asked);
    [[nodiscard]] Result<std::string> uuid_of(const std::string& guest) const;

    EventLoop& loop_;
    const xen::Store& store_;
    ThrottleBook book_;
    std::map<xen::DeviceId, Member> members_;
    std::optional<EventLoop::Timer> timer_;
};

}  // namespace ringback::blk
