// SPDX-License-Identifier: Apache-2.0
#include "blkback/worker/worker.h"

#include <poll.h>
#include <unistd.h>

#include <utility>

#include "runtime/log.h"

namespace ringback::blk::worker {

namespace {

constexpr size_t kGrantHandles = 8;          // gntdev keeps a list per handle: rings spread over several
constexpr int kOpenerTimeoutMs = 10'000;     // for the supervisor to decide on a named file
constexpr int64_t kReconnectNs = 100'000'000;

Message message_for(const xen::DeviceId& id, MessageType type) {
    Message message;
    message.type = type;
    message.kind = Text<16>(id.kind);
    message.devid = id.devid;
    return message;
}

GeometryMessage to_message(const image::Geometry& geometry) {
    return {geometry.bytes,
            geometry.logical_block,
            geometry.physical_block,
            geometry.discard_granularity,
            geometry.discard_alignment,
            static_cast<uint8_t>(geometry.discard ? 1 : 0)};
}

}  // namespace

Result<std::unique_ptr<Worker>> Worker::prepare(const Options& options) {
    std::unique_ptr<Worker> worker(new Worker(options));
    for (size_t i = 0; i < kGrantHandles; ++i) worker->grants_.push_back(TRY(xen::GrantTable::open()));
    worker->events_ = std::make_unique<xen::EventChannels>(TRY(xen::EventChannels::open()));
    // Domain 0 as a frontend (a disk attached to this host itself) cannot be named in the restriction.
    if (options.domid != 0) {
        if (auto restricted = worker->events_->restrict_to(options.domid); !restricted) {
            log::warning("domain {}: {}", options.domid, restricted.error().message);
        }
    }
    worker->reactor_ = TRY(Reactor::create({.polling = options.polling}));
    worker->buffers_ = std::make_unique<BufferPool>(*worker->reactor_, options.buffer_bytes);
    TRY(worker->buffers_->reserve());
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
        // The kernel ends a watch of many shots when it has no room for its completions, or no memory.
        if ((flags & IORING_CQE_F_MORE) == 0 && ready.fd >= 0) ready.worker->reactor_->watch_readable(ready.fd, ready);
    };
    reactor_->watch_readable(fd, watch);
}

void Worker::on_events() {
    // Each port that fires is masked until its ring is idle: at most one round per bound port.
    while (const auto port = events_->pending()) {
        Ring* ring = *port < rings_by_port_.size() ? rings_by_port_[*port] : nullptr;
        if (ring != nullptr) ring->on_event();
    }
}

Result<void> Worker::greet() {
    supervisor_ = std::make_unique<Channel>(TRY(Channel::connect(options_.supervisor)));
    Message hello;
    hello.type = MessageType::hello;
    hello.body.hello = {kProtocolVersion, static_cast<uint32_t>(getpid()), options_.domid};
    TRY(supervisor_->send(hello));
    for (const auto& [id, device] : devices_) {
        Message present = message_for(id, MessageType::present);
        present.body.answer = {};
        describe(*device, present.body.answer);
        TRY(supervisor_->send(present));
    }
    watch(supervisor_watch_, supervisor_->fd(), &Worker::on_supervisor);
    return {};
}

void Worker::on_supervisor() {
    for (;;) {
        auto received = supervisor_->receive();
        if (!received) return on_supervisor_gone(received.error());
        if (!received->has_value()) return;
        handle(std::move(**received));
        while (supervisor_ != nullptr && !deferred_.empty()) {
            Received next = std::move(deferred_.front());
            deferred_.pop_front();
            handle(std::move(next));
        }
        if (supervisor_ == nullptr) return;
    }
}

void Worker::on_supervisor_gone(const Error& error) {
    if (losses_.allow()) {
        log::notice("domain {}: the supervisor is gone ({}); serving on", options_.domid, error.message);
    }
    reactor_->cancel(supervisor_watch_);
    supervisor_watch_.fd = -1;
    supervisor_.reset();
    deferred_.clear();
    disconnecting_.clear();
    fail_openings();
    if (!quitting_) retry_later();
}

void Worker::retry_later() {
    retry_.worker = this;
    retry_.on_complete = [](Completion& self, int32_t, uint32_t) noexcept {
        Worker& worker = *static_cast<Retry&>(self).worker;
        if (!worker.greet()) {
            worker.supervisor_.reset();
            worker.retry_later();
        }
    };
    retry_delay_ = {0, kReconnectNs};
    reactor_->submit(retry_, [this](io_uring_sqe* sqe) { io_uring_prep_timeout(sqe, &retry_delay_, 0, 0); });
}

void Worker::send(const Message& message) {
    if (supervisor_ == nullptr) return;
    if (auto sent = supervisor_->send(message); !sent) on_supervisor_gone(sent.error());
}

void Worker::answer(const Message& request, const Result<void>& result, const Device* device) {
    Message message;
    message.type = MessageType::answer;
    message.id = request.id;
    message.kind = request.kind;
    message.devid = request.devid;
    message.body.answer = {};
    if (!result) {
        message.body.answer.error = result.error().code;
        message.body.answer.message = Text<512>(result.error().message);
    }
    if (device != nullptr) describe(*device, message.body.answer);
    send(message);
}

void Worker::describe(const Device& device, Answer& answer) {
    answer.geometry = to_message(device.geometry());
    answer.stats = device.stats();
    if (device.connected()) answer.rings = device.served();
    if (answer.error == 0) answer.message = Text<512>(device.failure());
}

Device* Worker::find(const Message& message) {
    const auto found = devices_.find({message.kind.str(), options_.domid, message.devid});
    return found == devices_.end() ? nullptr : found->second.get();
}

void Worker::handle(Received received) {
    const Message& message = received.message;
    if (message.type == MessageType::attach) return attach(received);
    const bool asked = message.id != 0 && message.id < next_id_;  // perhaps by an image that is gone meanwhile
    if (message.type == MessageType::file && asked) return opened(received);
    if (message.type == MessageType::quit) return quit();
    Device* device = find(message);
    if (device == nullptr) {
        return answer(message, os_error(ENODEV, "find device " + message.kind.str() + "/" +
                                                    std::to_string(options_.domid) + "/" +
                                                    std::to_string(message.devid) + " in its worker"));
    }
    switch (message.type) {
        case MessageType::connect: return answer(message, device->connect(message.body.connect), device);
        case MessageType::reconnect: return answer(message, device->reconnect(message.body.connect), device);
        case MessageType::disconnect:
            if (!device->connected()) return answer(message, {}, device);
            disconnecting_.emplace(device->id(), message);
            if (!device->draining()) device->disconnect();
            return;
        case MessageType::resize:
            if (device->closing()) return answer(message, os_error(EBUSY, "resize " + device->id().text()));
            return answer(message, device->refresh_size(), device);
        case MessageType::stats: return answer(message, {}, device);
        case MessageType::limit:
            device->limit(message.body.limit);
            return answer(message, {}, device);
        case MessageType::detach:
            if (device->connected()) return answer(message, os_error(EBUSY, "detach " + device->id().text()), device);
            if (device->closing()) return answer(message, os_error(EALREADY, "detach " + device->id().text()));
            return device->close([this, request = message](Device& closed) {
                devices_.erase(xen::DeviceId(closed.id()));
                answer(request, {});
                if (quitting_) quit();
            });
        default: return answer(message, os_error(EPROTO, "understand the supervisor"));
    }
}

// Nobody wants what is still here (its guest went while no supervisor was there): it is finished, then let go of.
void Worker::quit() {
    quitting_ = true;
    quit_task_.worker = this;
    quit_task_.run = [](Task& task) noexcept { static_cast<QuitTask&>(task).worker->quit(); };
    for (auto next = devices_.begin(); next != devices_.end();) {
        Device& device = *(next++)->second;
        if (device.connected()) {
            if (!device.draining()) device.disconnect();
        } else if (!device.closing()) {
            device.close([this](Device& closed) {
                devices_.erase(xen::DeviceId(closed.id()));
                if (devices_.empty()) reactor_->stop();
            });
        }
    }
    if (devices_.empty()) reactor_->stop();
}

void Worker::attach(Received& received) {
    const Message& message = received.message;
    const Attach& wanted = message.body.attach;
    const xen::DeviceId id{message.kind.str(), options_.domid, message.devid};
    if (received.descriptors.size() != 2) return answer(message, os_error(EPROTO, "attach " + id.text()));
    if (devices_.contains(id)) return answer(message, os_error(EEXIST, "attach " + id.text()));
    image::File file{std::move(received.descriptors[0]), wanted.writable != 0, wanted.direct != 0, wanted.name.str()};
    const int journal_file = received.descriptors[1].get();
    auto journal = wanted.recover != 0 ? Journal::take_over(journal_file, id) : Journal::map(journal_file, id);
    if (!journal) return answer(message, journal.error());
    auto fence = Fence::take(std::move(received.descriptors[1]), *reactor_);
    if (!fence) return answer(message, fence.error());
    journal->keep(std::move(*fence));
    auto opener = std::make_unique<DeviceOpener>(*this, id);
    auto image = image::open_image(wanted.format.str(), std::move(file), *opener, *reactor_,
                                   {.writable = wanted.writable != 0,
                                    .discard = wanted.discard != 0,
                                    .sync_failed = journal->sync_failed(),
                                    .reconnect_seconds = wanted.reconnect_seconds});
    if (!image) return answer(message, image.error());
    auto device = std::make_unique<Device>(
        id, Device::Resources{*reactor_, *events_, grants_, *buffers_, rings_by_port_}, std::move(*image),
        std::move(*journal), wanted.writable != 0, wanted.direct != 0,
        Device::Callbacks{.disconnected = [this](Device& drained) { on_disconnected(drained); },
                          .failed =
                              [this](Device& failed, const std::string& reason) {
                                  Message report = message_for(failed.id(), MessageType::device_failed);
                                  report.body.answer = {};
                                  report.body.answer.error = EPROTO;
                                  report.body.answer.message = Text<512>(reason);
                                  send(report);
                              },
                          .recovered =
                              [this](Device& recovered) {
                                  Message report = message_for(recovered.id(), MessageType::recovered);
                                  report.body.answer = {};
                                  describe(recovered, report.body.answer);
                                  send(report);
                              }},
        std::move(opener));
    answer(message, {}, device.get());
    devices_.emplace(id, std::move(device));
}

void Worker::on_disconnected(Device& device) {
    // Out of the map first: an answer that cannot be sent ends the connection, and forgets what it waits for.
    for (auto waiting = disconnecting_.extract(device.id()); !waiting.empty();
         waiting = disconnecting_.extract(device.id())) {
        answer(waiting.mapped(), {}, &device);
    }
    if (quitting_) reactor_->schedule(quit_task_);  // not from inside the device, which goes with its image
}

Result<Message> Worker::ask_for(const xen::DeviceId& id, const std::string& name, image::Opener::Access access) {
    Message ask = message_for(id, MessageType::open_file);
    ask.id = next_id_++;
    if (name.size() >= sizeof(ask.body.open_file.name.bytes)) return os_error(ENAMETOOLONG, "open " + name);
    ask.body.open_file = {};
    ask.body.open_file.name = Text<1024>(name);
    ask.body.open_file.writable = access == image::Opener::Access::write ? 1 : 0;
    return ask;
}

Result<image::File> Worker::take_file(Received& received, const std::string& name) {
    const Attach& decided = received.message.body.attach;
    if (received.descriptors.size() != 1) return Error{EACCES, decided.name.str()};
    return image::File{std::move(received.descriptors[0]), decided.writable != 0, decided.direct != 0, name};
}

// The image's header names another file. Blocks the reactor until the supervisor has decided: images are opened before
// their frontends connect, and what else the supervisor says meanwhile is kept for afterwards.
Result<image::File> Worker::open_named(const xen::DeviceId& id, const std::string& name, image::Opener::Access access) {
    if (supervisor_ == nullptr) return os_error(ENOTCONN, "ask the supervisor for " + name);
    const Message ask = TRY(ask_for(id, name, access));
    TRY(supervisor_->send(ask));
    for (;;) {
        pollfd readable{supervisor_->fd(), POLLIN, 0};
        if (poll(&readable, 1, kOpenerTimeoutMs) <= 0) return os_error(ETIMEDOUT, "ask the supervisor for " + name);
        auto received = TRY(supervisor_->receive());
        if (!received) continue;
        if (received->message.type == MessageType::file && received->message.id == ask.id) return take_file(*received, name);
        deferred_.push_back(std::move(*received));
    }
}

// Noted before it is sent: a supervisor that cannot be sent to is gone, and then all that was asked of it is answered.
void Worker::open_named_later(const xen::DeviceId& id, const std::string& name, image::Opener::Access access,
                              image::Opener::Opening& opening) {
    const auto ask = ask_for(id, name, access);
    if (!ask || supervisor_ == nullptr) {
        return opening.opened(opening, ask ? os_error(ENOTCONN, "ask the supervisor for " + name) : ask.error());
    }
    openings_.emplace(ask.value().id, &opening);
    send(ask.value());
}

void Worker::opened(Received& received) {
    const auto asked = openings_.extract(received.message.id);
    if (!asked.empty()) asked.mapped()->opened(*asked.mapped(), take_file(received, "the server"));
}

void Worker::fail_openings() {
    const auto openings = std::exchange(openings_, {});
    for (const auto& [id, opening] : openings) opening->opened(*opening, os_error(ENOTCONN, "ask the supervisor"));
}

void Worker::DeviceOpener::forget(Opening& opening) {
    std::erase_if(worker.openings_, [&](const auto& entry) { return entry.second == &opening; });
}

}  // namespace ringback::blk::worker
