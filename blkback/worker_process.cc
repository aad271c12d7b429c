// SPDX-License-Identifier: Apache-2.0
#include "blkback/worker_process.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <span>
#include <sstream>

#include "blkback/worker_user.h"
#include "runtime/log.h"
#include "runtime/worker_peer.h"

namespace ringback::blk {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kStartPatience{15000};  // a unit on a busy host
constexpr milliseconds kHelloPatience{5000};
constexpr size_t kMaxStrangers = 64;
constexpr size_t kMaxStrangersOfOne = 4;  // a process that only connects keeps no worker out
constexpr size_t kMaxQueued = 4096;  // messages to a worker that does not read

Answer failed_answer(int error, std::string_view message) {
    Answer answer{};
    answer.error = error;
    answer.message = message;
    return answer;
}

std::string unit_of(xen::Domid domid) { return fmt::format("blkback-worker@{}.service", domid); }

std::string read_file(const std::string& path) {
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

// A number is given to another process after a while; together with its start it is not.
std::string life_of(pid_t pid) {
    const std::string stat = read_file(fmt::format("/proc/{}/stat", pid));
    std::istringstream fields(stat.substr(std::min(stat.rfind(')') + 1, stat.size())));
    std::string state, field;
    fields >> state;
    for (int i = 0; i < 19; ++i) fields >> field;  // starttime, the 22nd
    const bool dead = state == "Z" || state == "X";  // nobody has asked for its end yet
    return fields && !dead ? fmt::format("{} {}", pid, field) : std::string{};
}

}  // namespace

WorkerPool::~WorkerPool() {
    for (auto& [fd, stranger] : strangers_) loop_.forget(fd);
    for (auto& [domid, worker] : workers_) {
        await_no_more(*worker);
        if (worker->channel) loop_.forget(worker->channel.fd());
        if (!worker->why_lost.empty() && worker->process) loop_.forget(worker->process.get());
    }
    if (listener_) loop_.forget(listener_.get());
}

Result<void> WorkerPool::listen(Events events) {
    events_ = std::move(events);
    listener_ = TRY(channel::bind(config_.worker_socket(), SOCK_SEQPACKET));
    if (config_.worker_start == WorkerStart::systemd) {
        // Who may call. Who it is that calls is looked at then.
        const std::string path = config_.worker_socket();
        if (::chown(path.c_str(), static_cast<uid_t>(-1), kWorkerGroup) != 0 || ::chmod(path.c_str(), 0660) != 0) {
            return os_error("give " + path + " to the workers' group");
        }
    }
    if (::listen(listener_.get(), 128) != 0) return os_error("listen on " + config_.worker_socket());
    return loop_.watch(listener_.get(), EPOLLIN, [this](uint32_t) { accept_one(); });
}

void WorkerPool::accept_one() {
    UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket || strangers_.size() >= kMaxStrangers) return;
    const int fd = socket.get();
    const pid_t pid = peer_of(fd).pid;
    const auto same = std::count_if(strangers_.begin(), strangers_.end(),
                                    [pid](const auto& entry) { return entry.second.pid == pid; });
    if (static_cast<size_t>(same) >= kMaxStrangersOfOne) return;
    Stranger stranger;
    stranger.pid = pid;
    stranger.channel = Channel(std::move(socket), Channel::Descriptors::refused);
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

void WorkerPool::greet(int fd) {
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
        if (complaints_.allow()) log::warning("a connection to the workers' socket was no worker's: closed");
        return;
    }
    const xen::Domid domid = message->body.hello.domid;
    const auto known = check_peer(fd, domid);
    if (!known) {
        if (complaints_.allow()) {
            log::warning("a process that says it is the worker of domain {} is not: {}", domid, known.error().message);
        }
        return;
    }
    const pid_t pid = known.value();
    auto waiting = workers_.find(domid);
    const bool second = waiting != workers_.end() && (waiting->second->channel || !waiting->second->why_lost.empty() ||
                                                      is_not_child(*waiting->second, pid));
    if (waiting == workers_.end() || second) {
        if (second || !events_.on_unexpected(domid)) {
            if (complaints_.allow()) {
                log::notice("worker {} of domain {} is not wanted{}: told to quit", pid, domid,
                            second ? " (there is another one)" : "");
            }
            Message quit;
            quit.type = MessageType::quit;
            (void)channel.send(quit);
            return;
        }
        auto worker = std::make_unique<Worker>();
        worker->domid = domid;
        waiting = workers_.emplace(domid, std::move(worker)).first;
    }
    Worker& worker = *waiting->second;
    loop_.cancel(worker.deadline);
    await_no_more(worker);
    worker.channel = std::move(channel);
    worker.pid = pid;
    worker.process.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    record(worker);
    if (!loop_.watch(worker.channel.fd(), EPOLLIN, [this, domid](uint32_t events) {
            if ((events & EPOLLOUT) != 0) {
                const auto writer = workers_.find(domid);
                if (writer != workers_.end()) flush(*writer->second);
            }
            if ((events & ~static_cast<uint32_t>(EPOLLOUT)) != 0) receive(domid);
        })) {
        lose(domid, "its connection could not be watched");
        return;
    }
    log::info("worker {} of domain {} is here", pid, domid);
    flush(worker);
}

Result<pid_t> WorkerPool::check_peer(int socket, xen::Domid domid) const {
    const auto expected = workers_.find(domid);
    const pid_t child = expected != workers_.end() && expected->second->ours ? expected->second->pid : 0;
    return check_worker(socket, config_, unit_of(domid), child);
}

// A child was started, and this is another process: one that an earlier supervisor has left.
bool WorkerPool::is_not_child(const Worker& worker, pid_t pid) const {
    return config_.worker_start == WorkerStart::fork && worker.ours && worker.pid != pid;
}

WorkerPool::Worker& WorkerPool::start(xen::Domid domid) {
    auto created = std::make_unique<Worker>();
    Worker& worker = *created;
    worker.domid = domid;
    worker.ours = true;
    workers_.emplace(domid, std::move(created));

    const bool systemd = config_.worker_start == WorkerStart::systemd;
    const std::vector<std::string> arguments =
        // restart: the unit of a worker that was told to quit may not have ended yet, and start would leave it at that.
        systemd ? std::vector<std::string>{"systemctl", "restart", "--no-block", unit_of(domid)}
                : std::vector<std::string>{config_.worker_program, "--domid", std::to_string(domid), "--supervisor",
                                           config_.worker_socket()};
    const Result<pid_t> pid = spawn(arguments);
    if (!pid) {
        // Never from inside request(): the caller is not ready for its own reply.
        worker.deadline = loop_.after(milliseconds(0), [this, domid, why = pid.error().message] { lose(domid, why); });
        return worker;
    }
    log::info("started {} for domain {} (process {})", systemd ? unit_of(domid) : config_.worker_program, domid,
              pid.value());
    if (!systemd) worker.pid = pid.value();
    children_.watch(pid.value(), [this, domid, systemd, child = pid.value()](int status) {
        if (status == 0 && systemd) return;
        const auto found = workers_.find(domid);
        if (found == workers_.end() || found->second->channel) return;  // its socket tells the rest
        if (!systemd && found->second->pid != child) return;
        lose(domid, systemd ? fmt::format("systemctl could not start {}; see journalctl -u {}", unit_of(domid),
                                          unit_of(domid))
                            : fmt::format("{} ended before it said hello", config_.worker_program));
    });
    worker.deadline = loop_.after(kStartPatience, [this, domid] {
        lose(domid, fmt::format("it did not connect within {} s of its start",
                                std::chrono::duration_cast<std::chrono::seconds>(kStartPatience).count()));
    });
    return worker;
}

void WorkerPool::request(xen::Domid domid, Message message, Descriptors descriptors, Reply reply) {
    const auto found = workers_.find(domid);
    Worker& worker = found != workers_.end() ? *found->second : start(domid);
    message.id = worker.next_id++;
    worker.open.emplace(message.id, std::move(reply));
    worker.queue.push_back({message, std::move(descriptors)});
    if (worker.channel && worker.queue.size() == 1) {
        loop_.change(worker.channel.fd(), EPOLLIN | EPOLLOUT);  // sent from the loop: lose() must not run in here
    }
}

void WorkerPool::flush(Worker& worker) {
    while (!worker.queue.empty()) {
        const Queued& first = worker.queue.front();
        std::array<int, 2> fds{};
        size_t count = 0;
        for (const UniqueFd& fd : first.descriptors) {
            if (fd) fds[count++] = fd.get();
        }
        const Result<void> sent = worker.channel.send(first.message, std::span(fds).first(count));
        if (!sent && sent.error().code == EAGAIN) {
            loop_.change(worker.channel.fd(), EPOLLIN | EPOLLOUT);
            return;
        }
        if (!sent) return;  // the connection is gone, which receive() notices and reports
        worker.queue.pop_front();
    }
    loop_.change(worker.channel.fd(), EPOLLIN);
}

void WorkerPool::receive(xen::Domid domid) {
    while (true) {
        const auto found = workers_.find(domid);
        if (found == workers_.end() || !found->second->channel) return;
        Worker& worker = *found->second;
        auto received = worker.channel.receive();
        if (!received) return lose(domid, received.error().message);
        if (!received->has_value()) return;
        const Message& message = (*received)->message;
        if (message.type == MessageType::answer) {
            const auto open = worker.open.find(message.id);
            if (open == worker.open.end()) return lose(domid, "it answered what nobody asked");
            const Reply reply = std::move(open->second);
            worker.open.erase(open);
            reply(message.body.answer);
        } else if (message.type == MessageType::device_failed) {
            const xen::DeviceId id{message.kind.str(), domid, message.devid};
            events_.on_device_failed(id, message.body.answer.message.str());
        } else if (message.type == MessageType::recovered) {
            events_.on_recovered({message.kind.str(), domid, message.devid}, message.body.answer);
        } else if (message.type == MessageType::present) {
            // Said after a hello. What is adopted asks for itself; only what nobody expects is of interest.
            if (worker.open.size() > kMaxQueued) return lose(domid, "it has more disks than there can be");
            events_.on_present({message.kind.str(), domid, message.devid});
        } else if (message.type == MessageType::open_file) {
            if (!hand_over(worker, message)) return lose(domid, "it asks for files without reading the answers");
        } else {
            return lose(domid, fmt::format("it sent a message of type {}", static_cast<unsigned>(message.type)));
        }
    }
}

// A worker that asks is answered, not trusted: what it may have is decided by its image's place.
bool WorkerPool::hand_over(Worker& worker, const Message& asked) {
    const xen::DeviceId id{asked.kind.str(), worker.domid, asked.devid};
    const OpenFile& wanted = asked.body.open_file;
    Message answer;
    answer.type = MessageType::file;
    answer.kind = asked.kind;
    answer.devid = asked.devid;
    answer.id = asked.id;
    answer.body.attach = Attach{};
    Descriptors descriptors;
    Result<OpenedFile> opened = events_.on_open_file(id, wanted.name.str(), wanted.writable != 0);
    if (opened) {
        answer.body.attach.writable = wanted.writable;
        answer.body.attach.direct = opened->direct ? 1 : 0;
        descriptors[0] = std::move(opened->fd);
    } else {
        answer.body.attach.name = Text<1024>(opened.error().message);
    }
    worker.queue.push_back({answer, std::move(descriptors)});
    if (worker.queue.size() > kMaxQueued) return false;
    flush(worker);
    return true;
}

void WorkerPool::lose(xen::Domid domid, std::string why) {
    const auto found = workers_.find(domid);
    if (found == workers_.end() || !found->second->why_lost.empty()) return;
    Worker& worker = *found->second;
    worker.why_lost = why.empty() ? "it is gone" : std::move(why);
    loop_.cancel(worker.deadline);
    await_no_more(worker);
    if (worker.channel) loop_.forget(worker.channel.fd());
    worker.channel.close();
    worker.queue.clear();
    if (!worker.process) return lost(domid);
    (void)::syscall(SYS_pidfd_send_signal, worker.process.get(), SIGKILL, nullptr, 0);
    if (!loop_.watch(worker.process.get(), EPOLLIN, [this, domid](uint32_t) { lost(domid); })) lost(domid);
}

// Its process is gone (or was never seen).
void WorkerPool::lost(xen::Domid domid) {
    const auto found = workers_.find(domid);
    INVARIANT(found != workers_.end());
    const std::unique_ptr<Worker> worker = std::move(found->second);
    workers_.erase(found);
    if (worker->process) loop_.forget(worker->process.get());
    (void)::unlink(record_path(domid).c_str());
    const Answer answer =
        failed_answer(ECONNRESET, fmt::format("the worker of domain {} is gone: {}", domid, worker->why_lost));
    for (auto& [id, reply] : worker->open) reply(answer);
    events_.on_lost(domid, worker->why_lost);
    // A successor's start restarts the unit; two commands for one unit would overtake each other.
    const bool succeeded = workers_.contains(domid) && config_.worker_start == WorkerStart::systemd;
    if (!succeeded) end_process(*worker);
}

void WorkerPool::end_process(const Worker& worker) {
    if (config_.worker_start == WorkerStart::systemd) {
        const auto child = spawn({"systemctl", "stop", "--no-block", unit_of(worker.domid)});
        if (child) children_.watch(child.value(), [](int) {});
        return;
    }
    // Only a child that has not been reaped yet can still be meant by its number.
    if (worker.ours && worker.pid != 0 && ::waitpid(worker.pid, nullptr, WNOHANG) == 0) ::kill(worker.pid, SIGKILL);
}

std::string WorkerPool::record_path(xen::Domid domid) const {
    return fmt::format("{}/{}.worker", config_.journal_directory(), domid);
}

// Without the file nothing is wrong: a worker is then waited for as long as one that may be alive.
void WorkerPool::record(const Worker& worker) const {
    std::ofstream(record_path(worker.domid), std::ios::trunc) << life_of(worker.pid) << '\n';
}

// Of the worker on record: tells of its end. None: nothing is on record; ESRCH: it has ended.
Result<UniqueFd> WorkerPool::watch_recorded(xen::Domid domid) const {
    std::ifstream file(record_path(domid));
    std::string life;
    if (!std::getline(file, life) || life.empty()) return UniqueFd();
    const pid_t pid = static_cast<pid_t>(std::strtol(life.c_str(), nullptr, 10));
    UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (life_of(pid) != life) return os_error(ESRCH, fmt::format("find worker {} of domain {}", pid, domid));
    return process;
}

void WorkerPool::expect(xen::Domid domid, milliseconds patience) {
    auto found = workers_.find(domid);
    if (found == workers_.end()) {
        auto process = watch_recorded(domid);
        if (!process) return;
        found = workers_.emplace(domid, std::make_unique<Worker>()).first;
        found->second->domid = domid;
        // It may be dying: then it is not waited for any longer than that.
        found->second->awaited = std::move(process).value();
        const int fd = found->second->awaited.get();
        if (fd >= 0 && !loop_.watch(fd, EPOLLIN, [this, domid](uint32_t) { lose(domid, "it ended meanwhile"); })) {
            found->second->awaited.reset();
        }
    }
    Worker& worker = *found->second;
    if (worker.channel || worker.ours || !worker.why_lost.empty()) return;
    if (worker.deadline.first >= EventLoop::Clock::now() + patience) return;
    loop_.cancel(worker.deadline);
    worker.deadline = loop_.after(patience, [this, domid] { lose(domid, "it did not come back"); });
}

void WorkerPool::await_no_more(Worker& worker) {
    if (worker.awaited) loop_.forget(worker.awaited.get());
    worker.awaited.reset();
}

bool WorkerPool::connected(xen::Domid domid) const {
    const auto found = workers_.find(domid);
    return found != workers_.end() && found->second->channel;
}

pid_t WorkerPool::pid(xen::Domid domid) const {
    const auto found = workers_.find(domid);
    return found == workers_.end() ? 0 : found->second->pid;
}

void WorkerPool::quit(xen::Domid domid) {
    const auto found = workers_.find(domid);
    if (found == workers_.end()) return;
    const std::unique_ptr<Worker> worker = std::move(found->second);
    workers_.erase(found);
    loop_.cancel(worker->deadline);
    await_no_more(*worker);
    (void)::unlink(record_path(domid).c_str());
    if (!worker->why_lost.empty()) {  // ended already
        if (worker->process) loop_.forget(worker->process.get());
        end_process(*worker);
        return;
    }
    if (!worker->channel) {
        end_process(*worker);
        return;
    }
    Message message;
    message.type = MessageType::quit;
    (void)worker->channel.send(message);
    loop_.forget(worker->channel.fd());
}

}  // namespace ringback::blk
