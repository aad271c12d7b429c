// SPDX-License-Identifier: Apache-2.0
#include "runtime/poll_policy.h"
#include "tools/frontend/netfront.h"
#include "tools/netbench/endpoint.h"

namespace ringback::netbench {

namespace {

class Ring : public Endpoint {
  public:
    explicit Ring(std::unique_ptr<frontend::Netfront> front) : front_(std::move(front)) {
        receiver_ = [this](Frame frame, const frontend::PacketInfo&) {
            if (tally_ != nullptr) tally_->take(frame, now_);
            took_ = true;
        };
    }
    size_t send(std::span<const Frame> frames) override {
        // Frames to this side wait on their ring while it only sends, and its answers come here.
        if (queue().tx_in_flight() > xen::netif::kTxEntries / 2) look(nullptr);
        size_t count = 0;
        while (count < frames.size() && queue().send(frames[count])) ++count;
        if (count > 0) queue().push();
        return count;
    }
    void receive(Tally& tally) override { look(&tally); }
    std::string broken() const override { return front_->queue(0).broken(); }

  private:
    void look(Tally* tally) {
        tally_ = tally;
        took_ = false;
        now_ = monotonic_ns();
        queue().reap(receiver_, false);
        if (took_) queue().push();
    }
    frontend::NetQueue& queue() { return front_->queue(0); }

    std::unique_ptr<frontend::Netfront> front_;
    frontend::NetQueue::Receiver receiver_;
    Tally* tally_ = nullptr;
    uint64_t now_ = 0;
    bool took_ = false;
};

}  // namespace

Result<std::unique_ptr<Endpoint>> open_ring(uint16_t domid) {
    auto front = TRY(frontend::Netfront::create({.domid = domid}));
    TRY(front->attach());
    return std::unique_ptr<Endpoint>(new Ring(std::move(front)));
}

}  // namespace ringback::netbench
