// SPDX-License-Identifier: Apache-2.0
#include "netback/device.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <thread>

#include "hypervisor/backend.h"
#include "netback/offer.h"

namespace ringback::net {

namespace {

using std::chrono::milliseconds;
using xen::XenbusState;

// libxl waits 10 s for Closed.
constexpr milliseconds kClosePatience{6000};
constexpr milliseconds kStoreTroublePause{1000};
constexpr milliseconds kAddressPause{250};
constexpr int kMaxSteps = 32;
constexpr const char* kRefusalScript = RINGBACK_VIF_REFUSED;

// Of the frontend's directory: what it may change while it is connected.
constexpr std::array kWatchedNodes{"/state", "/request-multicast-control"};

}  // namespace

Device::Device(Surroundings& surroundings, xen::DeviceId id, bool adopt)
    : around_(surroundings), id_(std::move(id)), directory_(xen::backend_directory(around_.own_domid, id_)) {
    read_description();
    if (!adopt) return;
    adopting_ = true;
    ring_ = RingPhase::connecting;
    announced_ = xen::read_state(around_.store, directory_) == XenbusState::connected;
}

Device::~Device() {
    if (timer_) around_.loop.cancel(*timer_);
    unwatch_frontend();
}

void Device::watch_frontend() {
    watched_ = frontend_;
    for (const char* node : kWatchedNodes) {
        const auto watched = around_.store.watch(watched_ + node, id_.text());
        if (!watched) log::error("{}: {}", id_.text(), watched.error().message);
    }
}

void Device::unwatch_frontend() {
    if (watched_.empty()) return;
    for (const char* node : kWatchedNodes) around_.store.unwatch(watched_ + node, id_.text());
    watched_.clear();
}

std::string Device::read(const char* key) const { return around_.store.read(directory_ + "/" + key).value_or(""); }

void Device::read_description() {
    frontend_ = xen::frontend_directory(around_.store, directory_, id_.domid);
    if (frontend_.empty() || watched_ == frontend_) return;
    unwatch_frontend();
    watch_frontend();
}

bool Device::gather() {
    const XenbusState frontend_before = view_.frontend;
    const XenbusState backend_before = view_.backend;
    view_.backend = xen::read_state(around_.store, directory_);
    // Only the toolstack writes Initialising, and only into a new directory.
    if (view_.backend == XenbusState::initialising && backend_before != XenbusState::unknown) {
        reborn_ = reborn_ || backend_before != XenbusState::initialising;
    }
    view_.present = around_.store.exists(directory_) && !reborn_;
    view_.frontend = frontend_.empty() ? XenbusState::unknown : xen::read_state(around_.store, frontend_);
    view_.online = read("online") != "0";
    view_.script_done = read("hotplug-status") == "connected";
    if (view_.backend == XenbusState::closed && view_.frontend == XenbusState::initialising &&
        frontend_before != XenbusState::initialising) {
        broken_ = false;
        if (phase_ == PortPhase::failed) phase_ = PortPhase::none;
    }
    if (view_.backend != XenbusState::closing) closing_since_.reset();
    else if (!closing_since_) closing_since_ = Clock::now();
    view_.close_overdue = closing_since_ && Clock::now() >= *closing_since_ + kClosePatience;
    view_.broken = broken_;
    view_.announced = announced_;
    view_.address_taken = address_taken_since_ && Clock::now() < ask_for_address_;
    view_.port = phase_;
    view_.ring = ring_;

    const bool held = ring_ == RingPhase::none && xen::kernel_holds(around_.ports.sysfs, id_);
    if (held && !refused_) {
        error_ = "the kernel's own driver holds this vif (xen-netback); remove it with \"modprobe -r xen-netback\", keep "
                 "it away with /etc/modprobe.d/ringback.conf, and attach the vif again";
        log::error("{}: {}", id_.text(), error_);
    }
    refused_ = held;
    // A lost connection reads as nodes that are gone, and would take every vif from its guest.
    if (around_.store.own_domid()) return true;
    around_.store_lost();
    return false;
}

bool Device::look() {
    for (int step = 0; step < kMaxSteps; ++step) {
        if (!gather()) return false;
        if (refused_ && view_.present) return false;
        if (adopting_) return false;  // its worker comes with its port, or is known not to come
        follow_wishes();
        const Action action = next_action(view_);
        if (action == Action::forget) {
            forget_rings();
            return pending_ == 0;
        }
        if (action == Action::none) {
            if (closing_since_ && !view_.close_overdue) look_after(kClosePatience);
            else if (view_.address_taken) look_after(kAddressPause);
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
        case Action::open_port: return open_port();
        case Action::remove_port: return remove_port();
        case Action::connect: return connect();
        case Action::disconnect: return disconnect();
        case Action::publish_init_wait:
            return publish(XenbusState::init_wait, [this](xen::Store::Update& update) {
                write_features(update);
                if (phase_ == PortPhase::failed && !view_.script_done) write_refusal(update);
            });
        case Action::publish_connected:
            announced_ = true;
            return publish(XenbusState::connected, [](xen::Store::Update&) {});
        case Action::publish_closing: return publish(XenbusState::closing, [](xen::Store::Update&) {});
        case Action::publish_closed: forget_rings(); return publish(XenbusState::closed, [](xen::Store::Update&) {});
    }
}

void Device::publish(XenbusState state, const std::function<void(xen::Store::Update&)>& more) {
    const auto written = xen::publish_state(around_.store, directory_, view_.backend, state, more);
    if (written) {
        log::info("{}: {}", id_.text(), xen::to_string(state));
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
    for (const char* key : {"feature-sg", "feature-gso-tcpv4", "feature-gso-tcpv6", "feature-ipv6-csum-offload",
                            "feature-rx-copy", "feature-split-event-channels", "feature-multicast-control",
                            "feature-dynamic-multicast-control"}) {
        update.write(key, 1);
    }
    for (const char* key : {"feature-rx-flip", "feature-xdp-headroom", "feature-ctrl-ring"}) {
        update.write(key, uint64_t{0});
    }
    update.write("multi-queue-max-queues", max_queues());
}

// libxl runs next what `script` names, and shows `hotplug-error` because that fails.
void Device::write_refusal(xen::Store::Update& update) const {
    update.write("hotplug-error", error_);
    update.write("hotplug-status", "error");
    update.write("script", kRefusalScript);
}

NicNodes Device::read_nodes() const {
    return {.script = read("script"), .bridge = read("bridge"), .mac = read("mac"), .ip = read("ip"), .vifname = read("vifname"),
            .mtu = read("mtu")};
}

Result<std::unique_ptr<Port>> Device::make_own_port() {
    return make_port(around_.ports, id_, read_nodes(), [this] { around_.look_again(id_); });
}

void Device::open_port() {
    if (const auto made = try_make_port(); !made) return port_opened(made);
    phase_ = PortPhase::opening;
    port_->open(view_.script_done, [this](const Result<void>& opened) { port_opened(opened); });
}

Result<void> Device::try_make_port() {
    // One whose script has run is on its network already; whoever comes second is refused.
    if (!view_.script_done) {
        if (const auto why = around_.refusal(id_)) return Error{EEXIST, *why};
    }
    port_ = TRY(make_own_port());
    return {};
}

void Device::port_opened(const Result<void>& opened) {
    phase_ = opened ? PortPhase::open : PortPhase::failed;
    around_.look_again(id_);
    if (opened) return;
    error_ = opened.error().message;
    log::error("{}: {}", id_.text(), error_);
}

void Device::remove_port() {
    if (phase_ == PortPhase::failed) phase_ = PortPhase::none;
    if (phase_ == PortPhase::none) return;
    phase_ = PortPhase::closing;
    port_->close([this](const Result<void>& closed) {
        if (!closed) log::error("{}: {}", id_.text(), closed.error().message);
        phase_ = PortPhase::none;
        around_.look_again(id_);
    });
}

std::string Device::journal_path() const {
    return xen::journal_path(around_.config.journal_directory(), id_);
}

Result<UniqueFd> Device::open_journal(bool fresh) const {
    const std::string path = journal_path();
    if (fresh && ::unlink(path.c_str()) != 0 && errno != ENOENT) return os_error("remove the stale journal " + path);
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd) return os_error("create the journal " + path);
    if (::ftruncate(fd.get(), static_cast<off_t>(kJournalBytes)) != 0) {
        return os_error("size the journal " + path);
    }
    return fd;
}

void Device::request(MessageType type, const std::function<void(Message&)>& fill, std::vector<UniqueFd> descriptors,
                     Reply reply) {
    Message message;
    message.type = type;
    message.domid = id_.domid;
    message.handle = id_.devid;
    fill(message);
    ++pending_;
    around_.worker.request(message, std::move(descriptors), [this, reply = std::move(reply)](const Answer& answer) {
        --pending_;
        reply(answer);
        around_.look_again(id_);
    });
}

void Device::connect() {
    if (const auto asked = try_connect(); !asked) connection_failed(asked.error().message);
}

Result<void> Device::try_connect() {
    Connect offer = TRY(read_offer(around_.store, frontend_, max_queues()));
    offer.resumed = resume_ ? 1 : 0;
    rate_text_ = read("rate");
    offer.rate = parse_rate(rate_text_);
    std::vector<UniqueFd> descriptors;
    descriptors.push_back(TRY(open_journal(!resume_)));
    offer.port_state = port_->state();
    TRY(port_->connect(offer, descriptors));
    connected_ = offer;
    ring_ = RingPhase::connecting;
    if (!resume_) announced_ = false;
    request(MessageType::connect, [&offer](Message& message) { message.body.connect = offer; }, std::move(descriptors),
            [this](const Answer& answer) { connect_answered(answer); });
    return {};
}

void Device::connect_answered(const Answer& answer) {
    if (ring_ != RingPhase::connecting) return;  // the worker was lost meanwhile
    if (answer.error == ECONNRESET) {            // so was this one: its successor is asked
        ring_ = RingPhase::none;
        resume_ = true;  // it may have served the rings for a moment
        return;
    }
    if (answer.error == EEXIST && connected_.kind == PortKind::switched && wait_for_address(answer.message.str())) return;
    address_taken_since_.reset();
    resume_ = false;
    if (answer.error != 0) {
        ring_gone();
        return connection_failed(answer.message.str());
    }
    ring_ = RingPhase::connected;
    error_.clear();
    port_->set_carrier(true);
    log::info("{}: {} queue{}, {} {}", id_.text(), connected_.queue_count, connected_.queue_count == 1 ? "" : "s",
              connected_.scatter_gather != 0 ? "scatter-gather" : "one page a packet", port_->place());
}

bool Device::wait_for_address(const std::string& why) {
    const auto now = Clock::now();
    if (!address_taken_since_) {
        address_taken_since_ = now;
        error_ = why;
        log_guest("{}; waiting until it is free", why);
    }
    if (now >= *address_taken_since_ + std::chrono::seconds(around_.config.switch_address_wait)) return false;
    ring_ = RingPhase::none;
    ask_for_address_ = now + kAddressPause;
    return true;
}

void Device::disconnect() {
    ring_ = RingPhase::disconnecting;
    if (port_) port_->set_carrier(false);
    request(MessageType::disconnect, [](Message&) {}, {}, [this](const Answer& answer) {
        if (answer.error != 0 && answer.error != ECONNRESET) log_guest("disconnect: {}", answer.message.str());
        ring_gone();
    });
}

// The worker gives the rings up and takes them on again where they stand.
void Device::reconnect() {
    ring_ = RingPhase::disconnecting;
    request(MessageType::disconnect, [](Message&) {}, {}, [this](const Answer&) {
        ring_ = RingPhase::none;
        resume_ = true;
    });
}

void Device::ring_gone() {
    ring_ = RingPhase::none;
    resume_ = false;
    if (port_) port_->rings_gone();
    (void)::unlink(journal_path().c_str());
}

// Of rings that were to be served again, the frontend has let go.
void Device::forget_rings() {
    address_taken_since_.reset();
    if (resume_) ring_gone();
}

void Device::connection_failed(const std::string& why) {
    broken_ = true;
    error_ = why;
    log_guest("{}", why);
    around_.look_again(id_);
}

void Device::worker_lost() {
    // The network device stays as it is, and the frontend is not told: a successor goes on with its rings.
    if (ring_ == RingPhase::connected) resume_ = true;
    if (ring_ == RingPhase::connected || (ring_ == RingPhase::connecting && !adopting_)) ring_ = RingPhase::none;
    if (adopting_) all_presented();
    around_.look_again(id_);
}

bool Device::presented(const Connect& parameters, std::vector<UniqueFd> descriptors) {
    if (!adopting_) return false;
    auto port = make_own_port();
    if (!port) return false;
    descriptors.erase(descriptors.begin());  // the journal: there under its name
    const Port::Adopted adopted = port.value()->adopt(parameters, std::move(descriptors));
    if (adopted == Port::Adopted::no) return false;
    port_ = std::move(port).value();
    phase_ = PortPhase::open;
    ring_ = RingPhase::connected;
    adopting_ = false;
    connected_ = parameters;
    rate_text_.clear();  // it may have changed meanwhile
    log::notice("{}: adopted from an earlier supervisor", id_.text());
    if (adopted == Port::Adopted::with_other_rules) reconnect();
    around_.look_again(id_);
    return true;
}

void Device::all_presented() {
    if (!adopting_) return;
    adopting_ = false;
    ring_ = RingPhase::none;
    // No worker has it: its rings are taken up where their journal stands.
    resume_ = xen::read_state(around_.store, directory_) == XenbusState::connected;
    around_.look_again(id_);
}

void Device::follow_wishes() {
    if (ring_ != RingPhase::connected) return;
    std::string rate = read("rate");
    const bool multicast = around_.store.read_number(frontend_ + "/request-multicast-control", 0, 1) == 1U;
    const bool port_changed = port_->take_change();
    if (rate == rate_text_ && multicast == (connected_.multicast_control != 0) && !port_changed) return;
    rate_text_ = std::move(rate);
    connected_.rate = parse_rate(rate_text_);
    connected_.multicast_control = multicast ? 1 : 0;
    connected_.port_state = port_->state();
    std::vector<UniqueFd> kept;
    if (const auto copied = port_->keep(kept); port_changed && !copied) log_guest("{}", copied.error().message);
    const auto fill = [this](Message& message) {
        message.body.adjust = {connected_.rate, connected_.multicast_control, {}, connected_.port_state};
    };
    request(MessageType::adjust, fill, std::move(kept), [](const Answer&) {});
}

void Device::ask_stats(std::function<void(const Answer&)> done) {
    if (asking_stats_) {  // a worker that hangs collects no more than one
        Answer busy{};
        busy.error = EBUSY;
        return done(busy);
    }
    asking_stats_ = true;
    request(MessageType::stats, [](Message&) {}, {}, [this, done = std::move(done)](const Answer& answer) {
        asking_stats_ = false;
        done(answer);
    });
}

void Device::look_after(milliseconds delay) {
    if (timer_) around_.loop.cancel(*timer_);
    timer_ = around_.loop.after(delay, [this] {
        timer_.reset();
        around_.look_again(id_);
    });
}

}  // namespace ringback::net
