// SPDX-License-Identifier: Apache-2.0
//
// Device: one virtual disk as the supervisor sees it: its store nodes, its file, and how far its worker is with it.
//
// look() gathers a View, asks the handshake what to do, does it, and looks again until there is nothing to do now. All
// that takes time (the worker, the script, the frontend) ends in another look(). Every store write is conditional on
// the directory being there and on the state being the one the decision was made on, in one transaction.
//
// The frontend's directory is named by our own directory, which only the toolstack writes; what is read from it is
// hostile, and is taken whole and in range or not at all.
//
// Thread: the supervisor's.
#pragma once

#include <fmt/format.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "blkback/config.h"
#include "blkback/handshake.h"
#include "blkback/lookup.h"
#include "blkback/policy.h"
#include "blkback/recoveries.h"
#include "blkback/server_link.h"
#include "blkback/worker_process.h"
#include "hypervisor/store.h"
#include "hypervisor/xenbus.h"
#include "runtime/event_loop.h"
#include "runtime/log.h"

namespace ringback::blk {

// A supervisor's successor is there within a second; a worker tries every few hundred milliseconds.
inline constexpr std::chrono::milliseconds kAdoptPatience{4000};

// What a Device works with; all of it outlives every Device.
struct Surroundings {
    EventLoop& loop;
    xen::Store& store;
    WorkerPool& workers;
    Recoveries& recoveries;
    const Config& config;
    PathRules rules;
    xen::Domid own_domid = 0;
    std::string sysfs = "/sys";
    std::function<void(const xen::DeviceId&)> look_again;  // soon, from the loop
    std::function<void()> store_lost;                      // nothing that is read means anything any more
};

class Device {
  public:
    using Clock = EventLoop::Clock;

    // `adopt`: the device was there before this supervisor; a worker may be serving it.
    Device(Surroundings& surroundings, xen::DeviceId id, bool adopt);
    ~Device();
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;

    // True: nothing is left of it, forget it.
    [[nodiscard]] bool look();

    // The image, which is being opened, names another file in its header.
    [[nodiscard]] Result<OpenedFile> open_named(const std::string& name, bool writable);
    // Its process is gone. A disk that was open is handed to a successor; its state in the store stays what it is.
    void worker_lost(const std::string& why);
    void recovered(const Answer& answer);
    void connection_failed(const std::string& why);
    // The file grew (or shall, to `bytes`, when not 0); tells the worker, then the frontend.
    void resize(uint64_t bytes, std::function<void(Result<uint64_t>)> done);
    void ask_stats(std::function<void(const Answer&)> done);
    void limit(const Limit& limit, Reply done);

    enum class Readiness : uint8_t { waiting, ready, failed };
    [[nodiscard]] Readiness readiness() const;

    [[nodiscard]] const xen::DeviceId& id() const { return id_; }
    [[nodiscard]] const std::string& frontend() const { return frontend_; }
    [[nodiscard]] const std::string& error() const { return error_; }
    [[nodiscard]] const std::string& target() const { return target_; }
    [[nodiscard]] const std::string& vdev() const { return vdev_; }
    [[nodiscard]] const std::string& why_buffered() const { return why_buffered_; }
    [[nodiscard]] const View& last_view() const { return view_; }
    [[nodiscard]] ImagePhase image() const { return image_; }
    [[nodiscard]] RingPhase ring() const { return ring_; }
    [[nodiscard]] const GeometryMessage& geometry() const { return geometry_; }
    // How often a worker took over this attachment's rings, and how long the latest death kept the frontend waiting.
    [[nodiscard]] uint64_t recoveries() const { return recoveries_; }
    [[nodiscard]] std::chrono::milliseconds last_pause() const { return last_pause_; }
    [[nodiscard]] bool recovering() const { return lost_at_.has_value(); }  // until all that was owed is answered
    [[nodiscard]] bool writable() const { return writable_; }
    [[nodiscard]] bool direct() const { return direct_; }
    [[nodiscard]] uint16_t queues() const { return ring_ == RingPhase::connected ? connected_.queue_count : uint16_t{0}; }
    [[nodiscard]] bool persistent() const { return ring_ == RingPhase::connected && connected_.persistent != 0; }

  private:
    void read_description();
    // False: the store does not answer.
    [[nodiscard]] bool gather();
    [[nodiscard]] bool has_new_rings() const;
    void act(Action action);
    [[nodiscard]] Result<Connect> wanted_rings() const;
    void send_connect();
    void connect();
    void disconnect();
    void publish(xen::XenbusState state, const std::function<void(xen::Store::Update&)>& more);
    void write_features(xen::Store::Update& update) const;
    void write_size(xen::Store::Update& update) const;
    void request(MessageType type, const std::function<void(Message&)>& fill, Descriptors descriptors, Reply reply);
    void look_after(std::chrono::milliseconds delay);
    [[nodiscard]] uint16_t max_queues() const;

    // device_image.cc
    [[nodiscard]] std::string journal_path() const;
    [[nodiscard]] Result<UniqueFd> create_journal() const;
    void open_image();
    [[nodiscard]] Result<Target> find_target() const;
    [[nodiscard]] Result<void> try_open();
    [[nodiscard]] Result<void> look_up(const Target& target);
    [[nodiscard]] Result<void> open_file(const Target& target);
    [[nodiscard]] Result<void> open_server(const Target& target);
    [[nodiscard]] Result<UniqueFd> connect_server(const image::nbd::Address& address);
    [[nodiscard]] bool wait_for_server() const;
    [[nodiscard]] Result<void> attach(const Target& target, UniqueFd file);
    void attached(const Answer& answer);
    void open_later(std::chrono::milliseconds delay);
    void stop_retrying();
    void not_opened(const Error& error);
    void fail_image(const std::string& why);
    void close_image();
    void image_closed();

    // device_recovery.cc
    void adopt();
    void finish_adoption(const Answer& answer);
    [[nodiscard]] bool left_by_the_dead();
    void owe_what_is_offered();
    [[nodiscard]] Result<UniqueFd> dead_workers_journal() const;
    void end_recovery();

    // Lines that a guest can cause: complaints, and its own walk through the states.
    template <typename... Args>
    void log_guest(fmt::format_string<Args...> format, Args&&... args) {
        if (!complaints_.allow()) return;
        log::warning("{}: {}{}", id_.text(), fmt::format(format, std::forward<Args>(args)...), left_out(complaints_));
    }
    template <typename... Args>
    void log_step(fmt::format_string<Args...> format, Args&&... args) {
        if (!steps_.allow()) return;
        log::info("{}: {}{}", id_.text(), fmt::format(format, std::forward<Args>(args)...), left_out(steps_));
    }
    static std::string left_out(LogLimiter& limiter) {
        const uint64_t lines = limiter.take_suppressed();
        return lines == 0 ? std::string() : fmt::format(" ({} lines before this one were left out)", lines);
    }

    Surroundings& around_;
    const xen::DeviceId id_;
    const std::string directory_;
    std::string frontend_;
    std::string frontend_watch_;  // the watched path, when watched
    std::string vdev_;
    std::string target_;
    std::string format_;
    bool script_opens_ = false;
    bool writable_ = false;
    bool direct_ = false;
    bool direct_io_safe_ = false;
    bool discard_wanted_ = true;
    uint32_t info_ = 0;

    View view_;
    ImagePhase image_ = ImagePhase::closed;
    RingPhase ring_ = RingPhase::none;
    bool broken_ = false;
    bool announced_ = false;
    bool frontend_moved_on_ = false;  // seen in another state than Initialised since the rings were connected
    bool asking_stats_ = false;
    bool resizing_ = false;
    bool looked_ = false;
    bool reborn_ = false;             // the directory was removed and made again: this object is of the former one
    bool refused_ = false;            // a kernel driver holds the node: hands off
    Connect offer_{};
    Connect connected_{};
    GeometryMessage geometry_{};
    std::string why_buffered_;
    std::string error_;  // why the image is not open, or why the connection ended
    std::optional<Clock::time_point> opening_since_;
    std::optional<Clock::time_point> busy_since_;  // somebody else has the image that is being opened
    std::optional<Clock::time_point> closing_since_;
    std::optional<EventLoop::Timer> timer_;
    // With either of them the image is opening, and nothing of it is asked of the worker. A lookup that nobody waits for any
    // more stays until its end, and the next one waits for that.
    std::optional<EventLoop::Timer> lock_retry_;
    std::unique_ptr<Lookup> lookup_;
    std::unique_ptr<ServerLink> server_;  // of a network disk
    std::optional<EventLoop::Timer> connect_retry_;
    bool successor_ = false;  // the image is a dead worker's: with its journal
    bool owed_ = false;       // its rings were connected: go on with them, not anew
    unsigned fence_tries_ = 0;
    std::optional<Clock::time_point> lost_at_;
    uint64_t recoveries_ = 0;
    std::chrono::milliseconds last_pause_{0};
    uint32_t pending_ = 0;  // replies that will still call into this object
    LogLimiter complaints_;
    LogLimiter steps_{40};
};

}  // namespace ringback::blk
