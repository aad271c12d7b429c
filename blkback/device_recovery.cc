// SPDX-License-Identifier: Apache-2.0
//
// A device that outlives the processes that serve it (docs/recovery.md): adopted by a new supervisor, or handed to the
// successor of a worker that is gone. Its state in the store stays what it is meanwhile.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "blkback/device.h"
#include "blkback/offer.h"

namespace ringback::blk {

namespace {

using std::chrono::milliseconds;
using xen::XenbusState;

// A disk that is in use is not given up because its worker is slow.
constexpr milliseconds kAdoptServingPatience{30000};

}  // namespace

void Device::adopt() {
    image_ = ImagePhase::opening;
    const bool serving = xen::read_state(around_.store, directory_) == XenbusState::connected;
    around_.workers.expect(id_.domid, serving ? kAdoptServingPatience : kAdoptPatience);
    request(MessageType::stats, [](Message&) {}, {}, [this](const Answer& answer) { finish_adoption(answer); });
}

void Device::finish_adoption(const Answer& answer) {
    if (answer.error != 0) {
        image_ = ImagePhase::closed;
        if (!left_by_the_dead()) return;
        image_ = ImagePhase::open;
        // Else worker_lost() comes next, and may not come twice.
        if (answer.error != ECONNRESET) worker_lost("it ended while there was no blkbackd");
        return;
    }
    log::notice("{}: adopted from an earlier supervisor", id_.text());
    if (answer.stats.connected != 0) {
        // Not what the store says now: the frontend may have resumed, with new rings, while there was no blkbackd.
        ring_ = RingPhase::connected;
        announced_ = true;
        connected_ = answer.rings;
        connected_.queue_count = std::min<uint16_t>(connected_.queue_count, kMaxQueues);
    } else if (answer.stats.owing != 0) {  // the earlier supervisor ended between the two steps of a takeover
        owe_what_is_offered();
        lost_at_ = Clock::now();
    }
    recoveries_ = answer.stats.recoveries;
    if (answer.stats.failed != 0) connection_failed(answer.message.str());
    direct_ = answer.stats.direct != 0;
    if (const auto target = find_target()) {
        target_ = target.value().path;
        format_ = target.value().format;
    }
    geometry_ = answer.geometry;
    if (image_ == ImagePhase::opening) {
        image_ = ImagePhase::open;
    } else if (image_ == ImagePhase::closing) {
        image_ = ImagePhase::open;
        close_image();
    }
}

// Supervisor and worker are gone, both. What there is of the disk is its nodes and its journal. False: it is not in use.
bool Device::left_by_the_dead() {
    const XenbusState state = xen::read_state(around_.store, directory_);
    if (state != XenbusState::connected && state != XenbusState::closing) return false;
    if (::access(journal_path().c_str(), F_OK) != 0) {
        if (state == XenbusState::connected) fail_image("the worker that served this disk is gone, and its journal too");
        return false;
    }
    owe_what_is_offered();
    return true;
}

// A frontend that is in Initialised now has offered new rings since, perhaps under the same references.
void Device::owe_what_is_offered() {
    const XenbusState frontend = frontend_.empty() ? XenbusState::unknown : xen::read_state(around_.store, frontend_);
    const auto offer = read_offer(around_.store, frontend_, kMaxQueues, around_.config.persistent_grants);
    if (frontend == XenbusState::initialised || !offer) return;
    connected_ = offer.value();
    announced_ = owed_ = true;
}

Result<UniqueFd> Device::dead_workers_journal() const {
    const std::string path = journal_path();
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
    if (!fd) return os_error("open the journal " + path);
    return fd;
}

void Device::worker_lost(const std::string& why) {
    if (connect_retry_) around_.loop.cancel(*connect_retry_);
    connect_retry_.reset();
    if (server_) server_->break_off();
    const bool connected = ring_ == RingPhase::connected;
    ring_ = RingPhase::none;
    const bool first_opening = image_ == ImagePhase::opening && !successor_ && !lock_retry_ && !lookup_;
    const bool had_image = image_ == ImagePhase::open || (image_ == ImagePhase::opening && successor_);
    around_.look_again(id_);
    if (first_opening || (had_image && broken_)) {
        return fail_image(fmt::format("the worker of domain {} is gone: {}", id_.domid, why));
    }
    if (!had_image) return;
    owed_ = owed_ || connected;
    successor_ = true;
    if (!lost_at_) lost_at_ = Clock::now();
    if (!around_.recoveries.enter(id_, Clock::now())) {
        return fail_image(fmt::format("{} workers died of this disk, the last one: {}", Recoveries::kMaxStrikes, why));
    }
    stop_retrying();
    image_ = ImagePhase::opening;
    fence_tries_ = 0;
    const milliseconds pause = around_.recoveries.pause(id_);
    if (pause > milliseconds(0)) return open_later(pause);
    open_image();
}

void Device::recovered(const Answer& answer) {
    if (ring_ != RingPhase::connected || !lost_at_) return;
    recoveries_ = answer.stats.recoveries;
    last_pause_ = std::chrono::duration_cast<milliseconds>(Clock::now() - *lost_at_);
    log_step("a new worker has taken over after {} ms; {} requests were done again in {} recoveries", last_pause_.count(),
             answer.stats.replayed, answer.stats.recoveries);
    end_recovery();
}

void Device::end_recovery() {
    around_.recoveries.leave(id_);
    lost_at_.reset();
}

}  // namespace ringback::blk
