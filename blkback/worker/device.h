// SPDX-License-Identifier: Apache-2.0
//
// Device: one disk of a guest, as its worker sees it. An image that is open, a journal, and, while the frontend is
// connected, the rings.
//
//     attached --connect()--> connected --disconnect()--> draining --(last answer published)--> attached --close()-->
//
// Draining stops taking, finishes and answers everything taken, and only then unmaps: a frontend that closed still waits
// for its answers.
//
// Thread: the worker's reactor.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "blkback/worker/ring.h"
#include "runtime/log.h"

namespace ringback::blk::worker {

class Device {
  public:
    struct Resources {
        Reactor& reactor;
        xen::EventChannels& events;
        std::span<xen::GrantTable> grants;  // rings take turns
        BufferPool& buffers;
        std::vector<Ring*>& rings_by_port;  // the worker's event dispatch
    };
    struct Callbacks {
        std::function<void(Device&)> disconnected;                  // a drain has ended
        std::function<void(Device&, const std::string&)> failed;    // the frontend broke the protocol; once a connection
        std::function<void(Device&)> recovered = {};                // what a dead worker owed is answered
    };

    Device(xen::DeviceId id, Resources resources, std::unique_ptr<image::Image> image, Journal journal, bool writable,
           bool direct, Callbacks callbacks, std::unique_ptr<image::Opener> opener = nullptr);
    ~Device();  // not connected
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;

    [[nodiscard]] const xen::DeviceId& id() const { return id_; }
    [[nodiscard]] bool connected() const { return !rings_.empty(); }
    [[nodiscard]] const Connect& served() const { return journal_.connect(); }
    [[nodiscard]] bool draining() const { return disk_.stopping; }
    // Maps the rings and binds the ports; all of them or none.
    [[nodiscard]] Result<void> connect(const Connect& parameters);
    // The same for rings that a dead worker served: goes on where the journal says it stopped, then says `recovered`. A
    // journal that describes other rings, or none, owes these nothing. EAGAIN: a port is not free yet.
    [[nodiscard]] Result<void> reconnect(const Connect& parameters);
    // Ends in Callbacks::disconnected, never from inside this call.
    void disconnect();
    // Not connected. Ends in `closed`, perhaps from inside this call, which may destroy the device.
    void close(std::function<void(Device&)> closed);
    [[nodiscard]] bool closing() const { return static_cast<bool>(closed_); }
    [[nodiscard]] Result<void> refresh_size();
    void limit(const Limit& limit);
    [[nodiscard]] const image::Geometry& geometry() const { return image_->geometry(); }
    [[nodiscard]] Stats stats() const;
    // Why this connection is served no more; empty: it is, or there is none.
    [[nodiscard]] const std::string& failure() const { return failure_; }

  private:
    struct DeviceTask : Task {
        Device* device;
    };
    struct DeviceTimer : Completion {
        Device* device;
    };
    struct ImageClosing : image::Closing {
        Device* device;
    };
    enum class Start : uint8_t { fresh, successor, recover };
    [[nodiscard]] Result<void> serve(const Connect& parameters, Start start);
    void teardown();
    void arm_grant_timer();
    void on_grant_timer();
    void hold_back(uint64_t now_ns);
    void go_on();
    void set_limits();

    const xen::DeviceId id_;
    Resources resources_;
    std::unique_ptr<image::Opener> opener_;  // the image's, for as long as it lives
    std::unique_ptr<image::Image> image_;
    Journal journal_;
    const bool writable_;
    const bool direct_;
    Callbacks callbacks_;
    DiskContext disk_;
    std::vector<std::unique_ptr<Ring>> rings_;
    DeviceTask teardown_;
    DeviceTask recovered_;
    ImageClosing image_closing_;
    std::function<void(Device&)> closed_;
    DeviceTimer grant_timer_;
    __kernel_timespec grant_period_{};
    DeviceTimer throttle_timer_;
    __kernel_timespec throttle_pause_{};
    uint64_t throttled_since_ = 0;
    size_t first_ring_ = 0;  // whose turn it is when requests were held back
    std::string failure_;
    bool failure_reported_ = false;
};

}  // namespace ringback::blk::worker
