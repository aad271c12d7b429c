// SPDX-License-Identifier: Apache-2.0
#include "blkback/worker/device.h"

#include <algorithm>
#include <utility>

#include "blkback/worker/steps.h"

namespace ringback::blk::worker {

namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kUnusedGrantNs = 60 * kSecond;  // as the kernel's backend
constexpr int64_t kGrantTimerSeconds = 20;
constexpr int64_t kNsPerSecond = kSecond;

}  // namespace

Device::Device(xen::DeviceId id, Resources resources, std::unique_ptr<image::Image> image, Journal journal,
               bool writable, bool direct, Callbacks callbacks, std::unique_ptr<image::Opener> opener)
    : id_(std::move(id)),
      resources_(resources),
      opener_(std::move(opener)),
      image_(std::move(image)),
      journal_(std::move(journal)),
      writable_(writable),
      direct_(direct),
      callbacks_(std::move(callbacks)),
      disk_{.reactor = resources.reactor,
            .image = *image_,
            .buffers = resources.buffers,
            .events = resources.events,
            .journal = journal_,
            .domid = id_.domid,
            .limits = {},
            .rings = {}} {
    set_limits();
    teardown_.device = this;
    teardown_.run = [](Task& task) noexcept { static_cast<DeviceTask&>(task).device->teardown(); };
    recovered_.device = this;
    recovered_.run = [](Task& task) noexcept {
        Device& device = *static_cast<DeviceTask&>(task).device;
        if (device.callbacks_.recovered) device.callbacks_.recovered(device);
    };
    grant_timer_.device = this;
    grant_timer_.on_complete = [](Completion& completion, int32_t, uint32_t) noexcept {
        static_cast<DeviceTimer&>(completion).device->on_grant_timer();
    };
    grant_period_ = {kGrantTimerSeconds, 0};
    throttle_timer_.device = this;
    throttle_timer_.on_complete = [](Completion& completion, int32_t, uint32_t) noexcept {
        static_cast<DeviceTimer&>(completion).device->go_on();
    };
    disk_.owner = this;
    disk_.on_grants_mapped = [](DiskContext& disk) noexcept { disk.owner->arm_grant_timer(); };
    disk_.on_throttled = [](DiskContext& disk, uint64_t now_ns) noexcept { disk.owner->hold_back(now_ns); };
    disk_.on_drained = [](DiskContext& disk) noexcept { disk.reactor.schedule(disk.owner->teardown_); };
    disk_.on_replayed = [](DiskContext& disk) noexcept { disk.reactor.schedule(disk.owner->recovered_); };
    disk_.on_broken = [](DiskContext& disk, const char* reason) noexcept {
        Device& device = *disk.owner;
        if (!device.failure_.empty()) return;
        device.failure_ = reason;
        disk.reactor.schedule(device.teardown_);
    };
}

Device::~Device() {
    INVARIANT(rings_.empty() && !teardown_.scheduled && !recovered_.scheduled && !disk_.grants_age && !disk_.throttled);
}

void Device::set_limits() {
    disk_.limits = {.sectors = geometry().bytes / xen::blkif::kSectorSize,
                    .writable = writable_,
                    .discard = geometry().discard};
}

Result<void> Device::connect(const Connect& parameters) { return serve(parameters, Start::fresh); }

Result<void> Device::reconnect(const Connect& parameters) {
    return serve(parameters, journal_.describes(parameters) && journal_is_used() ? Start::recover : Start::successor);
}

Result<void> Device::serve(const Connect& parameters, Start start) {
    const bool recover = start == Start::recover;
    if (connected() || closing()) return os_error(EBUSY, "connect " + id_.text());
    if (parameters.queue_count == 0 || parameters.queue_count > kMaxQueues || parameters.ring_order > kMaxRingOrder ||
        parameters.abi > Abi::x86_64) {
        return os_error(EINVAL, "connect " + id_.text());
    }
    // Everything that can fail comes first; a failure half way frees what it made.
    struct Bound {
        xen::EventChannels& events;
        std::vector<xen::Port> ports;
        ~Bound() {
            for (const xen::Port port : ports) events.unbind(port);
        }
    } bound{resources_.events, {}};
    std::vector<xen::GrantMapping> mappings;
    const size_t pages = size_t{1} << parameters.ring_order;
    for (uint16_t number = 0; number < parameters.queue_count; ++number) {
        const QueueParameters& queue = parameters.queues[number];
        xen::GrantTable& grants = resources_.grants[number % resources_.grants.size()];
        mappings.push_back(TRY(grants.map(id_.domid, std::span(queue.ring_refs).first(pages), true)));
        auto port = resources_.events.bind(id_.domid, queue.remote_port);
        // The kernel may still be letting go of the dead worker's end.
        if (!port && start != Start::fresh) return Error{EAGAIN, port.error().message};
        bound.ports.push_back(TRY(std::move(port)));
    }

    const bool persistent = parameters.persistent != 0 && (!recover || journal_.persistent());
    TRY(recover ? journal_.resume(parameters) : journal_.begin(parameters));
    std::vector<std::unique_ptr<Ring>> rings;
    for (uint16_t number = 0; number < parameters.queue_count; ++number) {
        rings.push_back(TRY(Ring::create(disk_, resources_.grants[number % resources_.grants.size()],
                                         {number, parameters.abi, persistent, std::move(mappings[number]),
                                          bound.ports[number], recover})));
    }
    if (recover) {
        for (const auto& ring : rings) ring->recover();
        journal_.count_recovery(disk_.replaying);
        if (disk_.replaying == 0) resources_.reactor.schedule(recovered_);
    }
    journal_.connected();
    disk_.stopping = false;
    for (uint16_t number = 0; number < parameters.queue_count; ++number) {
        const xen::Port port = bound.ports[number];
        rings_.push_back(std::move(rings[number]));
        disk_.rings.push_back(rings_.back().get());
        auto& by_port = resources_.rings_by_port;
        if (by_port.size() <= port) by_port.resize(port + 1);
        by_port[port] = rings_.back().get();
        rings_.back()->kick();
    }
    bound.ports.clear();
    return {};
}

void Device::disconnect() {
    disk_.stopping = true;
    if (disk_.grants_age) resources_.reactor.cancel(grant_timer_);
    if (disk_.throttled) resources_.reactor.cancel(throttle_timer_);
    resources_.reactor.schedule(teardown_);
}

// Reports a broken ring; unmaps everything once nothing is in flight and nothing refers to the rings any more.
void Device::teardown() {
    if (!failure_.empty() && !failure_reported_) {
        failure_reported_ = true;
        callbacks_.failed(*this, failure_);
    }
    if (!disk_.stopping || disk_.in_flight > 0) return;
    const bool busy = std::any_of(rings_.begin(), rings_.end(), [](const auto& ring) { return ring->scheduled(); });
    if (busy || recovered_.scheduled || disk_.grants_age || disk_.throttled) return resources_.reactor.schedule(teardown_);
    for (const auto& ring : rings_) {
        resources_.rings_by_port[ring->port()] = nullptr;
        resources_.events.unbind(ring->port());
    }
    disk_.rings.clear();
    rings_.clear();
    journal_.end();
    disk_.stopping = false;
    failure_.clear();
    failure_reported_ = false;
    callbacks_.disconnected(*this);
}

void Device::close(std::function<void(Device&)> closed) {
    INVARIANT(!connected() && !closing());
    closed_ = std::move(closed);
    image_closing_.device = this;
    image_closing_.closed = [](image::Closing& self, int32_t result) noexcept {
        Device& device = *static_cast<ImageClosing&>(self).device;
        if (result != 0) {
            log::warning("{}: the image is not left clean ({}); its next opening repairs it", device.id_.text(),
                         std::generic_category().message(-result));
        }
        const auto tell = std::exchange(device.closed_, nullptr);
        tell(device);
    };
    image_->close(image_closing_);
}

Result<void> Device::refresh_size() {
    TRY(image_->refresh_size());
    set_limits();
    return {};
}

void Device::arm_grant_timer() {
    disk_.grants_age = true;
    resources_.reactor.submit(grant_timer_, [this](io_uring_sqe* sqe) {
        io_uring_prep_timeout(sqe, &grant_period_, 0, 0);
    });
}

// Looks for unused grants only while any are mapped; otherwise an idle disk would cause wake-ups for nothing.
void Device::on_grant_timer() {
    disk_.grants_age = false;
    if (disk_.stopping) return;
    const uint64_t now = monotonic_ns();
    size_t mapped = 0;
    for (const auto& ring : rings_) mapped += ring->expire_grants(now - std::min(now, kUnusedGrantNs));
    if (mapped > 0) arm_grant_timer();
}

void Device::hold_back(uint64_t now_ns) {
    throttled_since_ = now_ns;
    const auto pause = static_cast<int64_t>(disk_.throttle.pause_ns(now_ns));
    throttle_pause_ = {pause / kNsPerSecond, pause % kNsPerSecond};
    resources_.reactor.submit(throttle_timer_, [this](io_uring_sqe* sqe) { io_uring_prep_timeout(sqe, &throttle_pause_, 0, 0); });
}

// The queues take turns: the first one to look may take all there is to take.
void Device::go_on() {
    disk_.throttled = false;
    disk_.stats.throttled_ns += monotonic_ns() - throttled_since_;
    for (size_t i = 0; i < rings_.size(); ++i) rings_[(first_ring_ + i) % rings_.size()]->kick();
    ++first_ring_;
}

// Whoever is held back by the former limit looks again.
void Device::limit(const Limit& limit) {
    disk_.throttle.set(limit, monotonic_ns());
    if (disk_.throttled) resources_.reactor.cancel(throttle_timer_);
}

Stats Device::stats() const {
    Stats stats = disk_.stats;
    const ReactorCounters& reactor = resources_.reactor.counters();
    stats.reactor_enters = reactor.enters;
    stats.reactor_sleeps = reactor.sleeps;
    stats.poll_hits = reactor.poll_hits;
    stats.poll_misses = reactor.poll_misses;
    stats.in_flight = disk_.in_flight;
    stats.recoveries = journal_.recoveries();
    stats.replayed = journal_.replayed();
    for (const auto& ring : rings_) stats.persistent_grants += ring->grants_mapped();
    if (disk_.throttled) stats.throttled_ns += monotonic_ns() - throttled_since_;
    stats.connected = connected() ? 1 : 0;
    stats.failed = failure_.empty() ? 0 : 1;
    stats.sync_failed = image_->sync_failed() ? 1 : 0;
    stats.direct = direct_ ? 1 : 0;
    stats.owing = !connected() && journal_.unfinished() ? 1 : 0;
    return stats;
}

}  // namespace ringback::blk::worker
