// SPDX-License-Identifier: Apache-2.0
//
// See blkfront.h.
#include "tools/frontend/blkfront.h"

#include <algorithm>
#include <chrono>

#include "hypervisor/store.h"

namespace ringback::frontend {
namespace {

using xen::XenbusState;

const char kToken[] = "backend";

auto is(XenbusState wanted) {
    return [wanted](XenbusState state) { return state == wanted; };
}

bool ends_a_disk(XenbusState state) {
    return state == XenbusState::closing || state == XenbusState::closed || state == XenbusState::unknown;
}

}  // namespace

Result<std::unique_ptr<Blkfront>> Blkfront::create(const Options& options) {
    xen::embedded::Guest guest = TRY(xen::embedded::Guest::connect(options.domid));
    xen::embedded::StoreClient store = TRY(xen::embedded::StoreClient::open(options.domid));
    std::unique_ptr<Blkfront> front(new Blkfront(options, std::move(guest), std::move(store)));
    front->frontend_ =
        "/local/domain/" + std::to_string(options.domid) + "/device/vbd/" + std::to_string(options.devid);
    TRY(front->find_backend());
    return front;
}

Result<void> Blkfront::find_backend() {
    backend_ = TRY(store_.read(frontend_ + "/backend"));
    const std::optional<uint64_t> domid =
        xen::parse_number(TRY(store_.read(frontend_ + "/backend-id")), 0, 0x7fef);
    if (!domid) return Error{EINVAL, frontend_ + "/backend-id is not a domain"};
    backend_domid_ = static_cast<uint16_t>(*domid);
    return store_.watch(backend_ + "/state", kToken);
}

XenbusState Blkfront::backend_state() {
    return xen::parse_state(store_.get(backend_ + "/state"));
}

Result<void> Blkfront::set_state(XenbusState state) {
    // As xenbus_switch_state does: never brings back a directory that the toolstack has removed.
    const std::string node = frontend_ + "/state";
    return store_.transact([&](uint32_t tx) -> Result<void> {
        TRY(store_.read(node, tx));
        return store_.write(node, std::to_string(static_cast<int>(state)), tx);
    });
}

Result<void> Blkfront::wait_backend(const std::function<bool(XenbusState)>& wanted,
                                    const std::function<bool(XenbusState)>& bearable) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(options_.timeout_ms);
    for (;;) {
        const XenbusState state = backend_state();
        if (wanted(state)) return {};
        if (bearable && !bearable(state))
            return Error{ECONNABORTED, "wait for " + backend_ + ": it went to " + xen::to_string(state)};
        const auto left =
            std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
        if (left.count() <= 0)
            return Error{ETIMEDOUT, "wait for " + backend_ + ": it stays in " + xen::to_string(state)};
        Result<xen::embedded::StoreEvent> event = store_.wait_event(static_cast<int>(left.count()));
        if (!event.ok() && event.error().code != ETIMEDOUT) return event.error();
    }
}

uint64_t Blkfront::backend_number(const std::string& key, uint64_t fallback) {
    const std::optional<std::string> text = store_.get(backend_ + "/" + key);
    if (!text) return fallback;
    return xen::parse_number(*text, 0, UINT64_MAX).value_or(fallback);
}

Result<void> Blkfront::publish() {
    drop_rings();
    info_ = {};
    info_.ring_order = static_cast<uint32_t>(
        std::min<uint64_t>(options_.ring_order, backend_number("max-ring-page-order", 0)));
    info_.queues = static_cast<uint32_t>(
        std::clamp<uint64_t>(backend_number("multi-queue-max-queues", 1), 1, std::max(options_.queues, 1U)));
    for (uint32_t i = 0; i < info_.queues; ++i)
        queues_.push_back(TRY(Queue::create(guest_, {info_.ring_order, options_.abi, backend_domid_})));
    TRY(store_.transact([&](uint32_t tx) { return write_nodes(tx); }));
    return set_state(XenbusState::initialised);
}

Result<void> Blkfront::write_nodes(uint32_t tx) {
    for (const char* key : {"ring-ref", "event-channel", "ring-page-order", "multi-queue-num-queues"})
        (void)store_.remove(frontend_ + "/" + key, tx);
    if (info_.ring_order > 0)
        TRY(store_.write(frontend_ + "/ring-page-order", std::to_string(info_.ring_order), tx));
    if (info_.queues > 1)
        TRY(store_.write(frontend_ + "/multi-queue-num-queues", std::to_string(info_.queues), tx));
    for (uint32_t i = 0; i < info_.queues; ++i) {
        const std::string directory =
            info_.queues > 1 ? frontend_ + "/queue-" + std::to_string(i) : frontend_;
        const std::vector<uint32_t>& refs = queues_[i].ring_refs();
        for (uint32_t page = 0; page < refs.size(); ++page)
            TRY(store_.write(directory + "/ring-ref" + (info_.ring_order > 0 ? std::to_string(page) : ""),
                             std::to_string(refs[page]), tx));
        TRY(store_.write(directory + "/event-channel", std::to_string(queues_[i].port()), tx));
    }
    if (options_.name_abi)
        TRY(store_.write(frontend_ + "/protocol",
                         options_.abi == xen::blkif::Abi::x86_32 ? "x86_32-abi" : "x86_64-abi", tx));
    return store_.write(frontend_ + "/feature-persistent", options_.persistent ? "1" : "0", tx);
}

void Blkfront::read_info() {
    info_.sectors = backend_number("sectors", 0);
    info_.sector_size = static_cast<uint32_t>(backend_number("sector-size", 0));
    info_.physical_sector_size =
        static_cast<uint32_t>(backend_number("physical-sector-size", info_.sector_size));
    const uint64_t bits = backend_number("info", 0);
    info_.read_only = (bits & xen::blkif::kInfoReadOnly) != 0;
    info_.cdrom = (bits & xen::blkif::kInfoCdrom) != 0;
    info_.flush = backend_number("feature-flush-cache", 0) != 0;
    info_.barrier = backend_number("feature-barrier", 0) != 0;
    info_.discard = backend_number("feature-discard", 0) != 0;
    info_.secure_discard = backend_number("discard-secure", 0) != 0;
    info_.discard_granularity = static_cast<uint32_t>(backend_number("discard-granularity", 0));
    info_.discard_alignment = static_cast<uint32_t>(backend_number("discard-alignment", 0));
    info_.persistent = options_.persistent && backend_number("feature-persistent", 0) != 0;
    const uint64_t indirect = backend_number("feature-max-indirect-segments", 0);
    const uint64_t offered = std::max<uint64_t>(indirect, xen::blkif::kMaxDirectSegments);
    info_.max_segments =
        static_cast<uint32_t>(std::min<uint64_t>(std::max(options_.max_segments, 1U), offered));
}

Result<void> Blkfront::finish() {
    read_info();
    // Linux gives the device up when it cannot read these two.
    if (info_.sectors == 0 || info_.sector_size == 0)
        return Error{EINVAL, "connect to " + backend_ + ": sectors or sector-size is missing"};
    for (Queue& queue : queues_)
        TRY(queue.start({info_.persistent, info_.max_segments, options_.pool_pages}));
    TRY(set_state(XenbusState::connected));
    connected_ = true;
    return {};
}

Result<void> Blkfront::attach() {
    const auto not_closing = [](XenbusState state) { return !ends_a_disk(state); };
    TRY(wait_backend([](XenbusState s) { return s == XenbusState::init_wait || s == XenbusState::connected; },
                     not_closing));
    TRY(publish());
    TRY(wait_backend(is(XenbusState::connected), not_closing));
    return finish();
}

Result<void> Blkfront::close() {
    connected_ = false;
    if (backend_state() != XenbusState::unknown) {
        TRY(set_state(XenbusState::closing));
        TRY(wait_backend(ends_a_disk));
        TRY(set_state(XenbusState::closed));
        TRY(wait_backend(
            [](XenbusState s) { return s == XenbusState::closed || s == XenbusState::unknown; }));
    }
    // The backend answers all it took before it says Closed.
    for (Queue& queue : queues_)
        (void)queue.reap();
    drop_rings();
    return {};
}

Result<void> Blkfront::push_state(XenbusState state, const std::function<bool(XenbusState)>& reached) {
    constexpr int kPollMs = 20;
    for (int waited = 0; !reached(backend_state()); waited += kPollMs) {
        if (waited > options_.timeout_ms)
            return Error{ETIMEDOUT, std::string("write ") + xen::to_string(state) + ": " + backend_ +
                                        " stays in " + xen::to_string(backend_state())};
        TRY(set_state(state));
        (void)store_.wait_event(kPollMs);
    }
    return {};
}

Result<void> Blkfront::windows_start() {
    connected_ = false;
    TRY(wait_backend([](XenbusState s) { return s != XenbusState::initialising; }));
    TRY(push_state(XenbusState::closing,
                   [](XenbusState s) { return s == XenbusState::closing || s == XenbusState::closed; }));
    TRY(push_state(XenbusState::closed, is(XenbusState::closed)));
    TRY(set_state(XenbusState::initialising));
    TRY(wait_backend(is(XenbusState::init_wait), [](XenbusState s) {
        return s == XenbusState::closed || s == XenbusState::initialising;
    }));
    TRY(publish());
    TRY(wait_backend(is(XenbusState::connected), [](XenbusState s) {
        return s == XenbusState::initialising || s == XenbusState::init_wait || s == XenbusState::initialised;
    }));
    return finish();
}

Result<void> Blkfront::kexec() {
    connected_ = false;
    // The new kernel uses the old rings' pages for something else.
    for (Queue& queue : queues_)
        std::fill_n(queue.shared(), queue.ring_refs().size() * kPageSize, std::byte{0xa5});
    drop_rings();
    TRY(set_state(XenbusState::closing));
    TRY(wait_backend(is(XenbusState::closing)));
    TRY(set_state(XenbusState::closed));
    TRY(wait_backend(is(XenbusState::closed)));
    TRY(set_state(XenbusState::initialising));
    TRY(wait_backend(is(XenbusState::init_wait)));
    return attach();
}

Result<void> Blkfront::resume() {
    std::vector<Request*> pending;
    for (Queue& queue : queues_)
        for (Request* request : queue.take_pending())
            pending.push_back(request);
    // Everything that was announced before the new rings does not count as the backend's answer to them.
    while (store_.next_event()) {
    }
    TRY(publish());
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(options_.timeout_ms);
    for (bool answered = false; !answered;) {
        const auto left =
            std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
        Result<xen::embedded::StoreEvent> event =
            store_.wait_event(static_cast<int>(std::max<int64_t>(left.count(), 0)));
        if (!event.ok())
            return Error{event.error().code, "resume: " + backend_ + " does not connect to the new rings"};
        answered = backend_state() == XenbusState::connected;
    }
    TRY(finish());
    size_t next = 0;
    for (Request* request : pending) {
        Queue& queue = queues_[next++ % queues_.size()];
        while (!queue.submit(*request)) {
            queue.push();
            if (!queue.wait(options_.timeout_ms))
                return Error{ETIMEDOUT, "resume: " + backend_ + " answers nothing" +
                                            (queue.broken().empty() ? "" : ", " + queue.broken())};
        }
    }
    for (Queue& queue : queues_)
        queue.push();
    return {};
}

Change Blkfront::poll_backend() {
    bool changed = false;
    while (store_.next_event())
        changed = true;
    if (!changed || !connected_) return Change::none;
    const XenbusState state = backend_state();
    if (ends_a_disk(state)) {
        connected_ = false;
        (void)set_state(XenbusState::closed);
        return Change::closing;
    }
    const uint64_t sectors = backend_number("sectors", info_.sectors);
    if (state != XenbusState::connected || sectors == info_.sectors) return Change::none;
    info_.sectors = sectors;
    return Change::resized;
}

void Blkfront::drop_rings() {
    for (Queue& queue : queues_) {
        queue.fail_all("the ring was closed");
        if (queue.release() != 0) retired_.push_back(std::move(queue));
    }
    queues_.clear();
}

uint32_t Blkfront::still_mapped() {
    uint32_t mapped = 0;
    std::vector<Queue> keep;
    for (Queue& queue : retired_) {
        const uint32_t pages = queue.release();
        mapped += pages;
        if (pages != 0) keep.push_back(std::move(queue));
    }
    retired_.swap(keep);
    return mapped;
}

}  // namespace ringback::frontend
