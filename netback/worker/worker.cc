// SPDX-License-Identifier: Apache-2.0
#include "netback/worker/worker.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "runtime/log.h"

namespace ringback::net::worker {

namespace {

constexpr size_t kGrantHandles = 8;
constexpr uint64_t kReconnectNs = 100'000'000;
constexpr uint64_t kShortestTickNs = 1'000'000;
constexpr uint64_t kSecond = 1'000'000'000;

}  // namespace

Result<std::unique_ptr<Worker>> Worker::prepare(const Options& options) {
    std::unique_ptr<Worker> worker(new Worker(options));
    const std::string lock = options.supervisor + ".lock";
    worker->alive_.reset(::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!worker->alive_ || ::flock(worker->alive_.get(), LOCK_SH | LOCK_NB) != 0) return os_error("lock " + lock);
    for (size_t i = 0; i < kGrantHandles; ++i) worker->grants_.push_back(TRY(xen::GrantTable::open()));
    // All guests' channels: this handle cannot be confined to one domain.
    worker->events_ = std::make_unique<xen::EventChannels>(TRY(xen::EventChannels::open()));
    worker->reactor_ = TRY(Reactor::create({.files = 1, .buffers = 1, .polling = options.polling}));
    return worker;
}

Worker::~Worker() = default;

Result<void> Worker::start() {
    TRY(reactor_->start());
    watch(events_watch_, events_->fd(), &Worker::on_events);
    TRY(greet());
    return {};
}

bool Worker::turn(bool may_sleep) {
    reactor_->turn(may_sleep);
    return !reactor_->stopping();
}

Result<void> Worker::run() {
    TRY(start());
    reactor_->run();
    return {};
}

void Worker::watch(Watch& watch, int fd, void (Worker::*on_readable)()) {
    watch.worker = this;
    watch.fd = fd;
    watch.on_readable = on_readable;
    watch.on_complete = [](Completion& self, int32_t, uint32_t flags) noexcept {
        auto& ready = static_cast<Watch&>(self);
        if (ready.fd < 0) return;  // what was left of a connection that ended
        (ready.worker->*ready.on_readable)();
        if ((flags & IORING_CQE_F_MORE) == 0 && ready.fd >= 0) ready.worker->reactor_->watch_readable(ready.fd, ready);
    };
    reactor_->watch_readable(fd, watch);
}

void Worker::on_events() {
    // Each port that fires is masked until its queue is idle: at most one round per bound port.
    while (const auto port = events_->pending()) {
        Queue* queue = *port < queues_by_port_.size() ? queues_by_port_[*port] : nullptr;
        if (queue != nullptr) queue->on_event(*port);
    }
}

Result<void> Worker::greet() {
    supervisor_ = std::make_unique<Channel>(TRY(Channel::connect(options_.supervisor)));
    Message hello;
    hello.type = MessageType::hello;
    hello.body.hello = {kProtocolVersion, static_cast<uint32_t>(getpid()), static_cast<uint32_t>(vifs_.size())};
    TRY(supervisor_->send(hello));
    for (const auto& [id, vif] : vifs_) {
        Message present;
        present.type = MessageType::present;
        present.domid = id.domid;
        present.handle = id.handle;
        present.body.connect = vif->parameters();
        TRY(supervisor_->send(present, vif->descriptors()));
        if (vif->broken() != nullptr) on_failed(*vif);
    }
    watch(supervisor_watch_, supervisor_->fd(), &Worker::on_supervisor);
    return {};
}

void Worker::on_supervisor() {
    while (supervisor_ != nullptr) {
        auto received = supervisor_->receive();
        if (!received) return on_supervisor_gone(received.error());
        if (!received->has_value()) return;
        handle(std::move(**received));
    }
}

void Worker::on_supervisor_gone(const Error& error) {
    if (losses_.allow()) log::notice("the supervisor is gone ({}); serving on", error.message);
    reactor_->cancel(supervisor_watch_);
    supervisor_watch_.fd = -1;
    supervisor_.reset();
    retry_later();
}

void Worker::retry_later() {
    retry_.worker = this;
    retry_.on_complete = [](Completion& self, int32_t, uint32_t) noexcept {
        Worker& worker = *static_cast<Timer&>(self).worker;
        if (!worker.greet()) {
            worker.supervisor_.reset();
            worker.retry_later();
        }
    };
    retry_.delay = {0, kReconnectNs};
    reactor_->submit(retry_, [this](io_uring_sqe* sqe) { io_uring_prep_timeout(sqe, &retry_.delay, 0, 0); });
}

void Worker::send(const Message& message) {
    if (supervisor_ == nullptr) return;
    if (auto sent = supervisor_->send(message); !sent) on_supervisor_gone(sent.error());
}

void Worker::answer(const Message& request, const Result<void>& result, const Vif* vif) {
    Message message;
    message.type = MessageType::answer;
    message.id = request.id;
    message.domid = request.domid;
    message.handle = request.handle;
    message.body.answer = {};
    if (vif != nullptr) {
        message.body.answer.stats = vif->stats();
        if (vif->broken() != nullptr) message.body.answer.message = Text<512>(vif->broken());
    }
    if (!result) {
        message.body.answer.error = result.error().code;
        message.body.answer.message = Text<512>(result.error().message);
    }
    send(message);
}

void Worker::answer_table(const Message& request) {
    Message message;
    message.type = MessageType::answer;
    message.id = request.id;
    message.body.answer = {};
    fabric_.list(request.body.table, message.body.answer.table);
    send(message);
}

void Worker::on_failed(const Vif& vif) {
    Message message;
    message.type = MessageType::vif_failed;
    message.domid = vif.id().domid;
    message.handle = vif.id().handle;
    message.body.answer = {};
    message.body.answer.message = Text<512>(vif.broken());
    send(message);
}

void Worker::handle(Received received) {
    const Message& message = received.message;
    const VifId id{message.domid, message.handle};
    const auto found = vifs_.find(id);
    Vif* vif = found == vifs_.end() ? nullptr : found->second.get();
    switch (message.type) {
        case MessageType::quit:
            if (vifs_.empty()) reactor_->stop();
            return;
        case MessageType::connect: {
            const auto connected = connect(received);
            return answer(message, connected, connected ? vifs_.at(id).get() : nullptr);
        }
        case MessageType::disconnect: return disconnect(message);
        case MessageType::adjust:
            if (vif != nullptr) vif->adjust(message.body.adjust, std::move(received.descriptors));
            return answer(message, {}, vif);
        case MessageType::stats: return answer(message, {}, vif);
        case MessageType::table: return answer_table(message);
        default: return on_supervisor_gone(os_error(EPROTO, "understand a message of the supervisor"));
    }
}

Result<void> Worker::connect(Received& received) {
    const Message& message = received.message;
    const VifId id{message.domid, message.handle};
    if (vifs_.contains(id)) return os_error(EEXIST, "connect a vif twice");
    if (received.descriptors.empty()) return os_error(EINVAL, "connect a vif without descriptors");
    UniqueFd journal = std::move(received.descriptors.front());
    received.descriptors.erase(received.descriptors.begin());
    vifs_[id] = TRY(Vif::connect({*reactor_, *events_, grants_, batch_, queues_by_port_, &fabric_}, id, message.body.connect,
                                 std::move(journal), std::move(received.descriptors),
                                 {.failed = [this](Vif& vif) { on_failed(vif); },
                                  .tick_wanted = [this](Vif& vif) { arm_tick(vif.next_tick()); }}));
    return {};
}

void Worker::disconnect(const Message& message) {
    const auto found = vifs_.find({message.domid, message.handle});
    if (found == vifs_.end()) return answer(message, {});
    found->second->end();
    ending_.push_back({std::move(found->second), message});
    vifs_.erase(found);
    bury_.worker = this;
    bury_.run = [](Task& task) noexcept { static_cast<BuryTask&>(task).worker->bury(); };
    reactor_->schedule(bury_);
}

void Worker::bury() {
    std::vector<Ending> ended;
    ended.swap(ending_);
    for (Ending& one : ended) {
        if (one.vif->scheduled()) {  // ended after this task was scheduled: next turn
            ending_.push_back(std::move(one));
            reactor_->schedule(bury_);
            continue;
        }
        one.vif.reset();
        answer(one.request, {});
    }
}

void Worker::arm_tick(uint64_t wanted) {
    if (wanted == 0) return;
    if (tick_.running) {
        if (wanted + kShortestTickNs >= tick_.end) return;
        tick_.end = 0;
        return reactor_->cancel(tick_);  // which ends it
    }
    const uint64_t now = monotonic_ns();
    const uint64_t delay = std::max(kShortestTickNs, wanted > now ? wanted - now : 0);
    tick_.worker = this;
    tick_.end = now + delay;
    tick_.on_complete = [](Completion& self, int32_t, uint32_t) noexcept {
        auto& timer = static_cast<Timer&>(self);
        timer.running = false;
        timer.worker->on_tick();
    };
    tick_.delay = {static_cast<int64_t>(delay / kSecond), static_cast<long long>(delay % kSecond)};
    tick_.running = true;
    reactor_->submit(tick_, [this](io_uring_sqe* sqe) { io_uring_prep_timeout(sqe, &tick_.delay, 0, 0); });
}

void Worker::on_tick() {
    const uint64_t now = monotonic_ns();
    uint64_t next = 0;
    for (const auto& [id, vif] : vifs_) {
        vif->tick(now);
        const uint64_t wanted = vif->next_tick();
        if (wanted != 0) next = next == 0 ? wanted : std::min(next, wanted);
    }
    arm_tick(next);
}

}  // namespace ringback::net::worker
