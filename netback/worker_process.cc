// SPDX-License-Identifier: Apache-2.0
#include "netback/worker_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "runtime/log.h"
#include "runtime/worker_peer.h"

namespace ringback::net {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kStartPatience{15000};  // a unit on a busy host
constexpr milliseconds kHelloPatience{5000};
constexpr milliseconds kLongestPause{5000};    // between two starts of a worker that keeps dying
constexpr std::chrono::seconds kGoodLife{10};  // one that lived so long is started again at once
constexpr size_t kMaxStrangers = 16;
constexpr const char* kUnit = "netback-worker.service";

}  // namespace

SwitchWorker::~SwitchWorker() {
    for (auto& [fd, stranger] : strangers_) loop_.forget(fd);
    if (channel_) loop_.forget(channel_.fd());
    if (listener_) loop_.forget(listener_.get());
}

Result<void> SwitchWorker::listen(Events events) {
    events_ = std::move(events);
    listener_ = TRY(channel::bind(config_.worker_socket(), SOCK_SEQPACKET));
    if (::listen(listener_.get(), 16) != 0) return os_error("listen on " + config_.worker_socket());
    return loop_.watch(listener_.get(), EPOLLIN, [this](uint32_t) { accept_one(); });
}

void SwitchWorker::set_deadline(milliseconds patience, std::function<void()> late) {
    if (deadline_) loop_.cancel(*deadline_);
    deadline_ = loop_.after(patience, [this, late = std::move(late)] {
        deadline_.reset();
        late();
    });
}

void SwitchWorker::accept_one() {
    UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket || strangers_.size() >= kMaxStrangers) return;
    const int fd = socket.get();
    Stranger stranger;
    stranger.channel = Channel(std::move(socket));
    stranger.deadline = loop_.after(kHelloPatience, [this, fd] {
        loop_.forget(fd);
        strangers_.erase(fd);
    });
    if (!loop_.watch(fd, EPOLLIN, [this, fd](uint32_t) { greet(fd); })) {
        loop_.cancel(stranger.deadline);
        return;
    }
    strangers_.emplace(fd, std::move(stranger));
}

void SwitchWorker::greet(int fd) {
    const auto found = strangers_.find(fd);
    INVARIANT(found != strangers_.end());
    auto received = found->second.channel.receive();
    if (received && !received->has_value()) return;
    loop_.cancel(found->second.deadline);
    loop_.forget(fd);
    Channel channel = std::move(found->second.channel);
    strangers_.erase(found);
    const Message* message = received ? &(*received)->message : nullptr;
    if (message == nullptr || message->type != MessageType::hello ||
        message->body.hello.protocol != kProtocolVersion) {
        log::warning("a connection to the worker's socket was no worker's: closed");
        return;
    }
    const auto peer = check_worker(channel.fd(), config_, kUnit, 0);
    if (!peer) {
        log::warning("a process that says it is the switch worker is not: {}", peer.error().message);
        return;
    }
    if (channel_) {
        log::notice("worker {} is not wanted (there is another one): told to quit", peer.value());
        Message quit;
        quit.type = MessageType::quit;
        (void)channel.send(quit);
        return;
    }
    if (deadline_) loop_.cancel(*deadline_);
    deadline_.reset();
    starting_ = false;
    channel_ = std::move(channel);
    pid_ = peer.value();
    to_present_ = message->body.hello.vifs;
    const auto watched = loop_.watch(channel_.fd(), EPOLLIN, [this](uint32_t events) {
        if ((events & EPOLLOUT) != 0) flush();
        if (channel_ && (events & ~static_cast<uint32_t>(EPOLLOUT)) != 0) receive();
    });
    if (!watched) return lose("its connection could not be watched");
    log::info("switch worker {} is here", pid_);
    if (to_present_ == 0) {
        events_.on_all_presented();
    } else {
        set_deadline(kHelloPatience, [this] { lose("it did not present what it has"); });
    }
    if (channel_) flush();
}

void SwitchWorker::start() {
    starting_ = true;
    const auto now = std::chrono::steady_clock::now();
    const bool lived = now - last_start_ > kGoodLife;
    const milliseconds pause = lived ? milliseconds(0) : pause_;
    pause_ = lived ? milliseconds(0) : std::min(std::max(pause_ * 2, milliseconds(50)), kLongestPause);
    set_deadline(pause, [this] {
        last_start_ = std::chrono::steady_clock::now();
        const bool systemd = config_.worker_start == WorkerStart::systemd;
        const std::vector<std::string> arguments =
            systemd ? std::vector<std::string>{"systemctl", "restart", "--no-block", kUnit}
                    : std::vector<std::string>{config_.worker_program, "--supervisor", config_.worker_socket()};
        const Result<pid_t> pid = spawn(arguments);
        if (!pid) return lose(pid.error().message);
        log::info("started {} (process {})", systemd ? kUnit : config_.worker_program, pid.value());
        ours_ = !systemd;
        if (ours_) pid_ = pid.value();
        children_.watch(pid.value(), [this, systemd, child = pid.value()](int status) {
            if (channel_ || !starting_) return;  // its socket tells the rest
            if (systemd && status != 0) return lose(fmt::format("systemctl could not start {}", kUnit));
            if (!systemd && child == pid_) lose(fmt::format("{} ended before it said hello", config_.worker_program));
        });
        set_deadline(kStartPatience, [this] {
            lose(fmt::format("it did not connect within {} s of its start",
                             std::chrono::duration_cast<std::chrono::seconds>(kStartPatience).count()));
        });
    });
}

void SwitchWorker::request(Message message, std::vector<UniqueFd> descriptors, Reply reply) {
    message.id = next_id_++;
    open_.emplace(message.id, std::move(reply));
    queue_.push_back({message, std::move(descriptors)});
    if (!channel_ && !starting_ && !deadline_) start();
    if (channel_) loop_.change(channel_.fd(), EPOLLIN | EPOLLOUT);  // sent from the loop: lose() must not run in here
}

void SwitchWorker::flush() {
    while (!queue_.empty()) {
        const Queued& first = queue_.front();
        std::vector<int> fds;
        for (const UniqueFd& fd : first.descriptors) fds.push_back(fd.get());
        const Result<void> sent = channel_.send(first.message, fds);
        if (!sent && sent.error().code == EAGAIN) {
            loop_.change(channel_.fd(), EPOLLIN | EPOLLOUT);
            return;
        }
        if (!sent) break;  // the connection is gone, which receive() notices and reports
        queue_.pop_front();
    }
    loop_.change(channel_.fd(), EPOLLIN);
}

void SwitchWorker::receive() {
    while (channel_) {
        auto received = channel_.receive();
        if (!received) return lose(received.error().message);
        if (!received->has_value()) return;
        handle(std::move(**received));
    }
}

void SwitchWorker::handle(Received received) {
    const Message& message = received.message;
    const xen::DeviceId id{"vif", message.domid, message.handle};
    if (message.type == MessageType::answer) {
        const auto open = open_.find(message.id);
        if (open == open_.end()) return lose("it answered what nobody asked");
        const Reply reply = std::move(open->second);
        open_.erase(open);
        return reply(message.body.answer);
    }
    if (message.type == MessageType::vif_failed) {
        return events_.on_vif_failed(id, message.body.answer.message.str());
    }
    if (message.type == MessageType::present && to_present_ > 0) {
        if (!events_.on_present(id, message.body.connect, std::move(received.descriptors))) {
            Message unwanted;
            unwanted.type = MessageType::disconnect;
            unwanted.domid = message.domid;
            unwanted.handle = message.handle;
            request(unwanted, {}, [](const Answer&) {});
        }
        if (--to_present_ > 0) return;
        if (deadline_) loop_.cancel(*deadline_);
        deadline_.reset();
        return events_.on_all_presented();
    }
    lose(fmt::format("it sent a message of type {}", static_cast<unsigned>(message.type)));
}

void SwitchWorker::lose(const std::string& why) {
    if (deadline_) loop_.cancel(*deadline_);
    deadline_.reset();
    starting_ = false;
    if (std::exchange(quitting_, false)) {
        log::info("the switch worker has ended: no vif is left");
    } else {
        log::error("the switch worker is gone: {}", why);
    }
    if (channel_) loop_.forget(channel_.fd());
    channel_.close();
    end_process();
    queue_.clear();
    std::map<uint64_t, Reply> open;
    open.swap(open_);
    Answer answer{};
    answer.error = ECONNRESET;
    answer.message = Text<512>("the switch worker is gone: " + why);
    for (auto& [id, reply] : open) reply(answer);
    events_.on_lost();
}

void SwitchWorker::end_process() {
    if (config_.worker_start == WorkerStart::systemd) return;  // the next start is a restart
    // Only a child that has not been reaped yet can still be meant by its number.
    if (ours_ && pid_ != 0 && ::waitpid(pid_, nullptr, WNOHANG) == 0) ::kill(pid_, SIGKILL);
    ours_ = false;
    pid_ = 0;
}

void SwitchWorker::expect(milliseconds patience) {
    if (channel_ || starting_) return;
    const std::string lock = config_.worker_socket() + ".lock";
    const UniqueFd file(::open(lock.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
    const bool lives = file && ::flock(file.get(), LOCK_EX | LOCK_NB) != 0;
    set_deadline(lives ? patience : milliseconds(0), [this] { lose("it did not come back"); });
}

void SwitchWorker::quit() {
    if (!channel_) return;
    Message message;
    message.type = MessageType::quit;
    quitting_ = true;
    queue_.push_back({message, {}});
    loop_.change(channel_.fd(), EPOLLIN | EPOLLOUT);
}

}  // namespace ringback::net
