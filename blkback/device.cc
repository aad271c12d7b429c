// SPDX-License-Identifier: Apache-2.0
#include "blkback/device.h"

#include <algorithm>
#include <thread>

#include "blkback/offer.h"
#include "hypervisor/backend.h"

namespace ringback::blk {

namespace {

using std::chrono::milliseconds;
using xen::XenbusState;

// libxl waits 10 s for InitWait; by then the script, which tells the user why, has to be running.
constexpr milliseconds kOpenPatience{3000};
// libxl waits 10 s for Closed; what is in flight has to be finished within the rest.
constexpr milliseconds kClosePatience{6000};
constexpr milliseconds kStoreTroublePause{1000};
constexpr milliseconds kPortPatience{5000};
constexpr milliseconds kPortPause{1};
constexpr int kMaxSteps = 32;

// xen/io/blkif.h: `info`.
constexpr uint32_t kInfoCdrom = 1;
constexpr uint32_t kInfoRemovable = 2;
constexpr uint32_t kInfoReadOnly = 4;

constexpr uint32_t kMaxIndirectSegments = 256;

}  // namespace

Device::Device(Surroundings& surroundings, xen::DeviceId id, bool adopted)
    : around_(surroundings), id_(std::move(id)), directory_(xen::backend_directory(around_.own_domid, id_)) {
    read_description();
    if (adopted) adopt();
}

Device::~Device() {
    stop_retrying();
    around_.recoveries.leave(id_);
    if (connect_retry_) around_.loop.cancel(*connect_retry_);
    if (timer_) around_.loop.cancel(*timer_);
    if (!frontend_watch_.empty()) around_.store.unwatch(frontend_watch_, id_.text());
}

void Device::read_description() {
    const auto read = [&](const char* key) { return around_.store.read(directory_ + "/" + key).value_or(""); };
    frontend_ = xen::frontend_directory(around_.store, directory_, id_.domid);
    if (!frontend_.empty() && frontend_watch_ != frontend_ + "/state") {
        if (!frontend_watch_.empty()) around_.store.unwatch(frontend_watch_, id_.text());
        frontend_watch_ = frontend_ + "/state";
        if (const auto watched = around_.store.watch(frontend_watch_, id_.text()); !watched) {
            log::error("{}: {}", id_.text(), watched.error().message);
            frontend_watch_.clear();
        }
    }
    const std::string script = read("script");
    script_opens_ = script.substr(script.rfind('/') + 1) == "block-ringback";
    vdev_ = read("dev");
    writable_ = read("mode") == "w";
    direct_io_safe_ = read("direct-io-safe") == "1";
    discard_wanted_ = writable_ && read("discard-enable") != "0";
    info_ = (writable_ ? 0 : kInfoReadOnly) | (read("removable") == "1" ? kInfoRemovable : 0);
    if (read("device-type") == "cdrom") info_ = kInfoCdrom | kInfoRemovable | kInfoReadOnly;
    if ((info_ & kInfoCdrom) != 0) writable_ = discard_wanted_ = false;
}

// A frontend that resumes goes through Initialised; one that finds us Connected may have left it again before we look.
bool Device::has_new_rings() const {
    const bool initialised = view_.frontend == XenbusState::initialised;
    if (ring_ != RingPhase::connected || (!initialised && view_.frontend != XenbusState::connected)) return false;
    const auto offer = read_offer(around_.store, frontend_, max_queues(), around_.config.persistent_grants);
    if (!offer) return initialised;
    return (initialised && frontend_moved_on_) || !same_rings(offer.value(), connected_);
}

bool Device::gather() {
    const XenbusState frontend_before = view_.frontend;
    const XenbusState backend_before = view_.backend;
    view_.backend = xen::read_state(around_.store, directory_);
    // Only the toolstack writes Initialising, and only into a new directory. That the directory was away may have been
    // seen, between two reads, as a state that was.
    if (view_.backend == XenbusState::initialising && looked_) {
        reborn_ = reborn_ || backend_before != XenbusState::initialising;
    }
    looked_ = true;
    view_.present = around_.store.exists(directory_) && !reborn_;
    view_.frontend = frontend_.empty() ? XenbusState::unknown : xen::read_state(around_.store, frontend_);
    view_.online = around_.store.read(directory_ + "/online") != "0";
    view_.script_opens = script_opens_;
    view_.script_done = around_.store.read(directory_ + "/hotplug-status") == "connected";

    if (view_.backend == XenbusState::closed && view_.frontend == XenbusState::initialising &&
        frontend_before != XenbusState::initialising) {
        broken_ = false;
        if (image_ == ImagePhase::failed) image_ = ImagePhase::closed;
    }
    view_.renewed = has_new_rings();
    if (ring_ == RingPhase::connected && view_.frontend != XenbusState::initialised) frontend_moved_on_ = true;
    if (view_.backend != XenbusState::closing) closing_since_.reset();
    else if (!closing_since_) closing_since_ = Clock::now();
    if (image_ != ImagePhase::opening) {
        opening_since_.reset();
        busy_since_.reset();
    }
    view_.open_overdue = opening_since_ && Clock::now() >= *opening_since_ + kOpenPatience;
    view_.close_overdue = closing_since_ && Clock::now() >= *closing_since_ + kClosePatience;
    view_.broken = broken_;
    view_.announced = announced_;
    view_.owed = owed_;
    view_.image = image_;
    view_.ring = ring_;

    const bool held = ring_ == RingPhase::none && xen::kernel_holds(around_.sysfs, id_);
    if (held && !refused_) {
        error_ = fmt::format("the kernel's own driver holds this device (xen-blkback); remove it with "
                             "\"modprobe -r xen-blkback\", keep it away with /etc/modprobe.d/ringback.conf, and attach "
                             "the disk again");
        log::error("{}: {}", id_.text(), error_);
    }
    refused_ = held;
    // A lost connection reads as nodes that are gone, and would take every disk from its guest.
    if (around_.store.own_domid()) return true;
    around_.store_lost();
    return false;
}

bool Device::look() {
    for (int step = 0; step < kMaxSteps; ++step) {
        if (!gather()) return false;
        if (refused_ && view_.present) return false;
        const Action action = next_action(view_);
        if (action == Action::forget) return pending_ == 0;
        if (action == Action::none) {
            if (opening_since_ && !view_.open_overdue) look_after(kOpenPatience);
            if (closing_since_ && !view_.close_overdue) look_after(kClosePatience);
            return false;
        }
        log::debug("{}: backend {}, frontend {}: {}", id_.text(), xen::to_string(view_.backend),
                   xen::to_string(view_.frontend), to_string(action));
        const auto timer_before = timer_;
        act(action);
        if (timer_ != timer_before) return false;  // the store is in trouble: later
    }
    around_.look_again(id_);
    return false;
}

void Device::act(Action action) {
    switch (action) {
        case Action::none:
        case Action::forget: return;
        case Action::open_image: return open_image();
        case Action::close_image: return close_image();
        case Action::connect: return connect();
        case Action::disconnect: return disconnect();
        case Action::publish_init_wait:
            return publish(XenbusState::init_wait, [this](xen::Store::Update& update) { write_features(update); });
        case Action::publish_connected:
            announced_ = true;
            return publish(XenbusState::connected, [this](xen::Store::Update& update) { write_size(update); });
        case Action::publish_closing: return publish(XenbusState::closing, [](xen::Store::Update&) {});
        case Action::publish_closed: return publish(XenbusState::closed, [](xen::Store::Update&) {});
    }
}

void Device::publish(XenbusState state, const std::function<void(xen::Store::Update&)>& more) {
    const auto written = xen::publish_state(around_.store, directory_, view_.backend, state, more);
    if (written) {
        log_step("{}", xen::to_string(state));
        return;
    }
    if (written.error().code == ENOENT) return;
    log_guest("{}", written.error().message);
    look_after(kStoreTroublePause);
}

uint16_t Device::max_queues() const {
    const uint32_t wanted =
        around_.config.max_queues != 0 ? around_.config.max_queues : std::thread::hardware_concurrency();
    return static_cast<uint16_t>(std::clamp<uint32_t>(wanted, 1, kMaxQueues));
}

void Device::write_features(xen::Store::Update& update) const {
    update.write("max-ring-page-order", kMaxRingOrder);
    update.write("multi-queue-max-queues", max_queues());
    update.write("feature-max-indirect-segments", kMaxIndirectSegments);
    update.write("feature-persistent", around_.config.persistent_grants ? 1 : 0);
    update.write("feature-flush-cache", 1);
    update.write("feature-barrier", around_.config.barrier ? 1 : 0);
    if (image_ == ImagePhase::open) write_size(update);
}

void Device::write_size(xen::Store::Update& update) const {
    update.write("sectors", geometry_.bytes / 512);
    update.write("sector-size", 512);
    update.write("physical-sector-size", geometry_.physical_block);
    update.write("info", info_);
    if (geometry_.discard != 0 && discard_wanted_) {
        update.write("feature-discard", 1);
        update.write("discard-granularity", geometry_.discard_granularity);
        update.write("discard-alignment", geometry_.discard_alignment);
        update.write("discard-secure", uint64_t{0});
    } else {
        update.remove("feature-discard");
    }
}

void Device::request(MessageType type, const std::function<void(Message&)>& fill, Descriptors descriptors,
                     Reply reply) {
    Message message;
    message.type = type;
    message.kind = Text<16>(id_.kind);
    message.devid = id_.devid;
    fill(message);
    ++pending_;
    around_.workers.request(id_.domid, message, std::move(descriptors), [this, reply = std::move(reply)](const Answer& answer) {
        --pending_;
        reply(answer);
        around_.look_again(id_);
    });
}

// A dead worker's rings, if the frontend still means them; or what it offers now. It may have resumed meanwhile, and found
// us Connected: then the worker sees that these are not its journal's rings, and begins anew.
Result<Connect> Device::wanted_rings() const {
    if (owed_ && view_.frontend != XenbusState::initialised && view_.frontend != XenbusState::connected) return connected_;
    auto offer = read_offer(around_.store, frontend_, max_queues(), around_.config.persistent_grants);
    if (!owed_ || view_.frontend == XenbusState::initialised) return offer;
    if (!offer || same_rings(offer.value(), connected_)) return connected_;
    return offer;
}

void Device::connect() {
    const auto offer = wanted_rings();
    if (!offer) return connection_failed(offer.error().message);
    offer_ = offer.value();
    // In Initialised again, or with other rings: resumed while the worker was dead. That kernel asks for everything anew.
    if (view_.frontend == XenbusState::initialised && (frontend_moved_on_ || !same_rings(offer_, connected_))) owed_ = false;
    if (!owed_) announced_ = false;
    ring_ = RingPhase::connecting;
    send_connect();
}

void Device::send_connect() {
    const Clock::time_point since = Clock::now();
    const auto fill = [this](Message& message) { message.body.connect = offer_; };
    const MessageType type = owed_ ? MessageType::reconnect : MessageType::connect;
    request(type, fill, {}, [this, since](const Answer& answer) {
        if (answer.error == EAGAIN && owed_ && (!lost_at_ || since < *lost_at_ + kPortPatience)) {
            connect_retry_ = around_.loop.after(kPortPause, [this] {
                connect_retry_.reset();
                send_connect();
            });
            return;
        }
        if (answer.error != 0) ring_ = RingPhase::none;
        if (answer.error == ECONNRESET) {  // worker_lost() comes next
            if (!owed_) frontend_moved_on_ = false;
            connected_ = offer_;
            owed_ = true;
            return;
        }
        if (answer.error != 0) return connection_failed(answer.message.str());
        ring_ = RingPhase::connected;
        connected_ = offer_;
        error_.clear();
        if (owed_) {  // recovered() comes when all is answered
            owed_ = false;
            return;
        }
        frontend_moved_on_ = false;
        end_recovery();
        log_step("{} queue{} of {} page{}, {}", connected_.queue_count, connected_.queue_count == 1 ? "" : "s",
                 1U << connected_.ring_order, connected_.ring_order == 0 ? "" : "s",
                 connected_.persistent != 0 ? "persistent grants" : "grant copy");
    });
}

void Device::disconnect() {
    ring_ = RingPhase::disconnecting;
    request(MessageType::disconnect, [](Message&) {}, {}, [this](const Answer& answer) {
        if (answer.error != 0 && answer.error != ECONNRESET) log_guest("disconnect: {}", answer.message.str());
        if (answer.error == ECONNRESET) owed_ = true;  // it died while it was finishing what it had; worker_lost() comes next
        ring_ = RingPhase::none;
    });
}

void Device::connection_failed(const std::string& why) {
    broken_ = true;
    error_ = why;
    log_guest("{}", why);
    around_.look_again(id_);
}

void Device::look_after(milliseconds delay) {
    if (timer_) around_.loop.cancel(*timer_);
    timer_ = around_.loop.after(delay, [this] {
        timer_.reset();
        around_.look_again(id_);
    });
}

}  // namespace ringback::blk
