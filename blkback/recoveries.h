// SPDX-License-Identifier: Apache-2.0
//
// Recoveries: who may try again after a worker's death, and when.
//
// A worker that is killed from outside is replaced at once. A request, an image or a journal that kills every worker must
// not be tried for ever, and must not take the guest's other disks with it. What a device was at when a worker died
// (taking over its image, doing again what was owed) counts against it. Everything it owed answered clears it.
// From the second strike on the guest's devices take over one after the other, the least suspect first, so that a death
// tells whose it was. At kMaxStrikes the device is given up.
//
// A guest that kills each worker with a new request gets as many as the bucket has, and no more: starting one costs the host
// some milliseconds.
//
// Thread: the supervisor's.
#pragma once

#include <chrono>
#include <map>

#include "hypervisor/xenbus.h"

namespace ringback::blk {

class Recoveries {
  public:
    using Clock = std::chrono::steady_clock;
    static constexpr unsigned kMaxStrikes = 5;
    static constexpr double kBurst = 10;
    // One that waits for its guest, or for slow storage, does not hold up the others for longer.
    static constexpr std::chrono::seconds kTurn{5};
    static constexpr double kPerSecond = 10;

    // Once for each death, before its devices are told.
    void worker_died(xen::Domid domid, Clock::time_point now);
    // The device has to take over. False: it is given up.
    [[nodiscard]] bool enter(const xen::DeviceId& id, Clock::time_point now);
    // How long the death and the device's strikes make it wait.
    [[nodiscard]] std::chrono::milliseconds pause(const xen::DeviceId& id) const;
    // Whether it is its turn; if so it is at it from now on.
    [[nodiscard]] bool begin(const xen::DeviceId& id, Clock::time_point now);
    // All that was owed is answered, or the device is gone.
    void leave(const xen::DeviceId& id) { devices_.erase(id); }

  private:
    struct Bucket {
        double tokens = kBurst;
        Clock::time_point filled;
        std::chrono::milliseconds pause{0};
    };
    struct Entry {
        unsigned strikes = 0;
        bool at_it = false;
        Clock::time_point seen;
    };
    std::map<xen::Domid, Bucket> buckets_;
    std::map<xen::DeviceId, Entry> devices_;
};

}  // namespace ringback::blk
