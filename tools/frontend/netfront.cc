// SPDX-License-Identifier: Apache-2.0
//
// See netfront.h.
#include "tools/frontend/netfront.h"

#include <algorithm>
#include <chrono>

#include "hypervisor/store.h"

namespace ringback::frontend {
namespace {

using xen::XenbusState;

auto is(XenbusState wanted) {
    return [wanted](XenbusState state) { return state == wanted; };
}

bool gone(XenbusState state) { return state == XenbusState::closed || state == XenbusState::unknown; }

}  // namespace

Result<std::unique_ptr<Netfront>> Netfront::create(const NetOptions& options) {
    xen::embedded::Guest guest = TRY(xen::embedded::Guest::connect(options.domid));
    xen::embedded::StoreClient store = TRY(xen::embedded::StoreClient::open(options.domid));
    std::unique_ptr<Netfront> front(new Netfront(options, std::move(guest), std::move(store)));
    front->frontend_ =
        "/local/domain/" + std::to_string(options.domid) + "/device/vif/" + std::to_string(options.handle);
    front->backend_ = TRY(front->store_.read(front->frontend_ + "/backend"));
    const auto domid = xen::parse_number(TRY(front->store_.read(front->frontend_ + "/backend-id")), 0, 0x7fef);
    if (!domid) return Error{EINVAL, front->frontend_ + "/backend-id is not a domain"};
    front->backend_domid_ = static_cast<uint16_t>(*domid);
    TRY(front->store_.watch(front->backend_ + "/state", "backend"));
    return front;
}

XenbusState Netfront::backend_state() { return xen::parse_state(store_.get(backend_ + "/state")); }

Result<void> Netfront::set_state(XenbusState state) {
    // As xenbus_switch_state does: never brings back a directory that the toolstack has removed.
    const std::string node = frontend_ + "/state";
    return store_.transact([&](uint32_t tx) -> Result<void> {
        TRY(store_.read(node, tx));
        return store_.write(node, std::to_string(static_cast<int>(state)), tx);
    });
}

Result<void> Netfront::wait_backend(const std::function<bool(XenbusState)>& wanted,
                                    const std::function<bool(XenbusState)>& bearable) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(options_.timeout_ms);
    for (;;) {
        const XenbusState state = backend_state();
        if (wanted(state)) return {};
        if (bearable && !bearable(state)) {
            return Error{ECONNABORTED, "wait for " + backend_ + ": it went to " + xen::to_string(state)};
        }
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
        if (left.count() <= 0) {
            return Error{ETIMEDOUT, "wait for " + backend_ + ": it stays in " + xen::to_string(state)};
        }
        auto event = store_.wait_event(static_cast<int>(left.count()));
        if (!event.ok() && event.error().code != ETIMEDOUT) return event.error();
    }
}

Result<void> Netfront::write_nodes(uint32_t tx) {
    const auto write = [&](const std::string& key, const std::string& value) {
        return store_.write(frontend_ + "/" + key, value, tx);
    };
    for (const char* key : {"tx-ring-ref", "rx-ring-ref", "event-channel", "event-channel-tx", "event-channel-rx"}) {
        (void)store_.remove(frontend_ + "/" + key, tx);
    }
    TRY(write("multi-queue-num-queues", std::to_string(queues_.size())));
    for (size_t i = 0; i < queues_.size(); ++i) {
        const std::string where = queues_.size() > 1 ? "queue-" + std::to_string(i) + "/" : "";
        TRY(write(where + "tx-ring-ref", std::to_string(queues_[i].tx_ring_ref())));
        TRY(write(where + "rx-ring-ref", std::to_string(queues_[i].rx_ring_ref())));
        if (options_.split_ports) {
            TRY(write(where + "event-channel-tx", std::to_string(queues_[i].tx_port())));
            TRY(write(where + "event-channel-rx", std::to_string(queues_[i].rx_port())));
        } else {
            TRY(write(where + "event-channel", std::to_string(queues_[i].tx_port())));
        }
    }
    TRY(write("request-rx-copy", "1"));
    TRY(write("feature-rx-notify", "1"));
    TRY(write("feature-sg", options_.scatter_gather ? "1" : "0"));
    TRY(write("feature-gso-tcpv4", options_.gso ? "1" : "0"));
    TRY(write("feature-gso-tcpv6", options_.gso ? "1" : "0"));
    if (!options_.csum4) TRY(write("feature-no-csum-offload", "1"));
    return write("feature-ipv6-csum-offload", options_.csum6 ? "1" : "0");
}

Result<void> Netfront::publish() {
    drop_rings();
    const uint64_t offered =
        xen::parse_number(store_.get(backend_ + "/multi-queue-max-queues").value_or("1"), 1, UINT32_MAX).value_or(1);
    const uint64_t count = std::clamp<uint64_t>(options_.queues, 1, offered);
    for (uint64_t i = 0; i < count; ++i) {
        queues_.push_back(
            TRY(NetQueue::create(guest_, {.backend_domid = backend_domid_, .split_ports = options_.split_ports})));
    }
    TRY(store_.transact([&](uint32_t tx) { return write_nodes(tx); }));
    return set_state(XenbusState::connected);
}

Result<void> Netfront::attach() {
    TRY(wait_backend(is(XenbusState::init_wait), [](XenbusState s) { return s == XenbusState::initialising; }));
    TRY(publish());
    return wait_backend(is(XenbusState::connected),
                        [](XenbusState s) { return s == XenbusState::init_wait || s == XenbusState::connected; });
}

Result<void> Netfront::close() {
    if (backend_state() != XenbusState::unknown) {
        TRY(set_state(XenbusState::closing));
        TRY(wait_backend([](XenbusState s) { return s == XenbusState::closing || gone(s); }));
        TRY(set_state(XenbusState::closed));
        TRY(wait_backend(gone));
    }
    drop_rings();
    return {};
}

Result<void> Netfront::windows_start() {
    // It waits at a raised interrupt level for as long as it takes: these two states would hang the guest.
    const auto bearable = [](XenbusState s) { return s != XenbusState::initialised; };
    for (;;) {
        TRY(wait_backend([](XenbusState s) { return s != XenbusState::initialising; }, bearable));
        const XenbusState state = backend_state();
        if (state == XenbusState::init_wait) break;
        if (state == XenbusState::connected) {
            TRY(set_state(XenbusState::closing));
            TRY(wait_backend([](XenbusState s) { return s != XenbusState::connected; }, bearable));
        } else if (state == XenbusState::closing) {
            TRY(set_state(XenbusState::closed));
            TRY(wait_backend([](XenbusState s) { return s != XenbusState::closing; }, bearable));
        } else if (state == XenbusState::closed) {
            TRY(set_state(XenbusState::initialising));
            TRY(wait_backend([](XenbusState s) { return s != XenbusState::closed; }, bearable));
        } else {
            return Error{ENODEV, "start on " + backend_ + ": it is in " + xen::to_string(state)};
        }
    }
    TRY(publish());
    return wait_backend(is(XenbusState::connected), is(XenbusState::init_wait));
}

Result<void> Netfront::kexec() {
    // The new kernel uses the old rings' pages for something else.
    for (NetQueue& queue : queues_) {
        std::fill_n(queue.tx_shared(), 4096, std::byte{0xa5});
        std::fill_n(queue.rx_shared(), 4096, std::byte{0xa5});
    }
    drop_rings();
    TRY(set_state(XenbusState::closing));
    TRY(wait_backend(is(XenbusState::closing)));
    TRY(set_state(XenbusState::closed));
    TRY(wait_backend(is(XenbusState::closed)));
    TRY(set_state(XenbusState::initialising));
    TRY(wait_backend(is(XenbusState::init_wait)));
    return attach();
}

bool Netfront::follow_backend() {
    while (store_.next_event()) {
    }
    const XenbusState state = backend_state();
    if (state != XenbusState::closing && !gone(state)) return false;
    (void)set_state(XenbusState::closed);
    return true;
}

void Netfront::drop_rings() {
    for (NetQueue& queue : queues_) {
        if (queue.release() != 0) retired_.push_back(std::move(queue));
    }
    queues_.clear();
}

uint32_t Netfront::still_mapped() {
    uint32_t mapped = 0;
    std::vector<NetQueue> keep;
    for (NetQueue& queue : retired_) {
        const uint32_t pages = queue.release();
        mapped += pages;
        if (pages != 0) keep.push_back(std::move(queue));
    }
    retired_.swap(keep);
    return mapped;
}

}  // namespace ringback::frontend
