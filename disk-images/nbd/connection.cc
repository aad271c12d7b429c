// SPDX-License-Identifier: Apache-2.0
#include "disk-images/nbd/connection.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <libnbd.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <new>
#include <system_error>

namespace ringback::image::nbd {

namespace {

using std::chrono::milliseconds;

constexpr uint64_t kLargestData = 32U << 20;   // what every server takes, if it does not say less
constexpr uint64_t kLargestRange = 1U << 30;   // of what moves no data
constexpr uint64_t kZeroBytes = 1U << 20;      // at once, for a server that cannot do that itself

// What a request's scratch holds while a connection has it.
struct Parts {
    Connection* connection = nullptr;
    uint32_t left = 0;
    int32_t result = 0;
    bool lost = false;
};
static_assert(sizeof(Parts) <= sizeof(Io::scratch));

Parts& parts(Io& io) { return *std::launder(reinterpret_cast<Parts*>(io.scratch.data())); }

std::span<const std::byte> zeros() {
    static const std::unique_ptr<std::byte[]> bytes(new std::byte[kZeroBytes]());
    return {bytes.get(), kZeroBytes};
}

// libnbd's last error on this thread, as one line.
std::string last_error() {
    std::string text = nbd_get_error() != nullptr ? nbd_get_error() : "the connection broke";
    std::replace(text.begin(), text.end(), '\n', ' ');
    return text;
}

}  // namespace

Connection::Connection(Reactor& reactor, const Address& address, Events& events)
    : reactor_(reactor), address_(address), events_(events) {
    for (Poll* poll : {&in_, &out_}) {
        poll->connection = this;
        poll->on_complete = [](Completion& self, int32_t, uint32_t) noexcept {
            auto& done = static_cast<Poll&>(self);
            done.armed = false;
            done.connection->reactor_.schedule(done.connection->task_);
        };
    }
    task_.connection = this;
    task_.run = [](Task& self) noexcept { static_cast<StepTask&>(self).connection->run(); };
}

Connection::~Connection() { INVARIANT(idle() && in_flight_ == 0); }

Result<void> Connection::begin(UniqueFd socket) {
    INVARIANT(idle());
    const int flags = fcntl(socket.get(), F_GETFL);
    if (flags < 0 || fcntl(socket.get(), F_SETFL, flags | O_NONBLOCK) != 0) return os_error("use the socket of " + address_.text);
    socket_ = std::move(socket);
    state_ = State::connecting;
    leaving_ = tell_ready_ = tell_ended_ = false;
    why_.clear();
    return {};
}

void Connection::start(UniqueFd socket) {
    if (auto begun = begin(std::move(socket)); !begun) {
        why_ = begun.error().message;
        tell_ended_ = true;
    }
    reactor_.schedule(task_);
}

Result<void> Connection::start_now(UniqueFd socket, milliseconds patience) {
    TRY(begin(std::move(socket)));
    const auto end = std::chrono::steady_clock::now() + patience;
    while (state_ == State::connecting || state_ == State::handshake) {
        const auto left = std::chrono::duration_cast<milliseconds>(end - std::chrono::steady_clock::now());
        pollfd ready{socket_.get(), wanted_events(), 0};
        if (left.count() <= 0 || ::poll(&ready, 1, static_cast<int>(left.count())) == 0) {
            fail(fmt::format("no answer within {} ms", patience.count()));
        } else {
            advance();
        }
    }
    if (state_ == State::ready) return {};
    tell_ended_ = false;  // said here
    return Error{ENOTCONN, fmt::format("open {}: {}", address_.text, why_)};
}

void Connection::serve() { reactor_.schedule(task_); }

short Connection::wanted_events() const {
    if (state_ == State::connecting) return POLLOUT;
    if (state_ == State::draining) return POLLIN;
    if (state_ == State::none) return 0;
    const unsigned direction = nbd_aio_get_direction(handle_);
    const int events = ((direction & LIBNBD_AIO_DIRECTION_READ) != 0 ? POLLIN : 0) |
                       ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0 ? POLLOUT : 0);
    return static_cast<short>(events);
}

void Connection::arm() {
    const short events = wanted_events();
    if ((events & POLLIN) != 0) wait_for(in_, POLLIN);
    if ((events & POLLOUT) != 0) wait_for(out_, POLLOUT);
}

void Connection::wait_for(Poll& poll, short events) {
    if (poll.armed) return;
    poll.armed = true;
    reactor_.submit(poll, [&](io_uring_sqe* sqe) { io_uring_prep_poll_add(sqe, socket_.get(), static_cast<unsigned>(events)); });
}

void Connection::run() {
    advance();
    IoList retired = retired_.take();
    while (!retired.empty()) {
        Io& io = retired.pop();
        const Parts told = parts(io);
        --in_flight_;
        events_.done(io, told.result, told.lost);
    }
    arm();
    if (std::exchange(tell_ready_, false)) events_.ready(*this);
    // Last: the owner may do with it what he likes.
    const bool ended = tell_ended_ && !in_.armed && !out_.armed;
    if (!ended) return;
    tell_ended_ = false;
    events_.ended(*this, why_);
}

void Connection::advance() {
    if (state_ == State::connecting) begin_handshake();
    if (state_ == State::handshake || state_ == State::ready) pump();
    if (state_ == State::draining) drain();
}

void Connection::begin_handshake() {
    pollfd writable{socket_.get(), POLLOUT, 0};
    if (::poll(&writable, 1, 0) == 0) return;
    int error = 0;
    socklen_t length = sizeof error;
    if (getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error, &length) != 0) error = errno;
    if (error != 0) return fail("connect: " + std::generic_category().message(error));
    UniqueFd own(fcntl(socket_.get(), F_DUPFD_CLOEXEC, 3));
    handle_ = own ? nbd_create() : nullptr;
    if (handle_ == nullptr) return fail(own ? last_error() : "no descriptor is left");
    state_ = State::handshake;
    // Simple replies: one message an answer. What is read is used only if the whole of it came.
    if (nbd_set_export_name(handle_, address_.export_name.c_str()) != 0 ||
        nbd_set_request_structured_replies(handle_, false) != 0 || nbd_set_pread_initialize(handle_, false) != 0 ||
        nbd_aio_connect_socket(handle_, own.release()) != 0) {
        return fail(last_error());
    }
}

void Connection::pump() {
    for (;;) {
        pollfd ready{socket_.get(), wanted_events(), 0};
        if (nbd_aio_is_dead(handle_) != 0 || nbd_aio_is_closed(handle_) != 0) {
            return fail(why_.empty() ? "the server closed the connection" : why_);
        }
        if (state_ == State::handshake && nbd_aio_is_ready(handle_) != 0) learn();
        if (state_ != State::handshake && state_ != State::ready) return;
        if (ready.events == 0 || ::poll(&ready, 1, 0) <= 0) return;
        const bool read = (ready.events & POLLIN) != 0 && (ready.revents & ~POLLOUT) != 0;
        if ((read ? nbd_aio_notify_read(handle_) : nbd_aio_notify_write(handle_)) != 0) why_ = last_error();
    }
}

void Connection::learn() {
    const int64_t bytes = nbd_get_size(handle_);
    if (bytes < 0) return fail(last_error());
    const auto block = [&](int which) { return static_cast<uint64_t>(std::max<int64_t>(nbd_get_block_size(handle_, which), 0)); };
    const uint64_t largest = block(LIBNBD_SIZE_MAXIMUM);
    export_ = {.bytes = static_cast<uint64_t>(bytes),
               .smallest = static_cast<uint32_t>(block(LIBNBD_SIZE_MINIMUM)),
               .preferred = static_cast<uint32_t>(block(LIBNBD_SIZE_PREFERRED)),
               .largest = static_cast<uint32_t>(largest == 0 ? kLargestData : std::min(largest, kLargestData)),
               .writable = nbd_is_read_only(handle_) == 0,
               .flush = nbd_can_flush(handle_) == 1,
               .fua = nbd_can_fua(handle_) == 1,
               .trim = nbd_can_trim(handle_) == 1,
               .zero = nbd_can_zero(handle_) == 1,
               .multi = nbd_can_multi_conn(handle_) == 1};
    export_.largest = std::max<uint32_t>(export_.largest / kSectorSize * kSectorSize, kSectorSize);
    state_ = State::ready;
    tell_ready_ = true;
}

void Connection::fail(std::string why) {
    why_ = std::move(why);
    leaving_ = tell_ready_ = false;
    const bool served = state_ == State::ready;
    if (handle_ != nullptr) nbd_close(std::exchange(handle_, nullptr));
    // Nothing was asked of it: nothing to wait for.
    if (!served) return let_go();
    state_ = State::draining;
    (void)::shutdown(socket_.get(), SHUT_WR);
}

void Connection::drain() {
    std::array<std::byte, 16384> nobody_wants;
    for (;;) {
        const ssize_t got = ::recv(socket_.get(), nobody_wants.data(), nobody_wants.size(), MSG_DONTWAIT);
        if (got > 0 || (got < 0 && errno == EINTR)) continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
        return let_go();
    }
}

void Connection::let_go() {
    if (handle_ != nullptr) nbd_close(std::exchange(handle_, nullptr));
    if (in_.armed) reactor_.cancel(in_);
    if (out_.armed) reactor_.cancel(out_);
    // There may be descriptors of it elsewhere.
    (void)::shutdown(socket_.get(), SHUT_RDWR);
    socket_.reset();
    state_ = State::none;
    tell_ended_ = true;
}

void Connection::stop() {
    if (state_ == State::none) return;
    if (ready() && in_flight_ == 0) {
        (void)nbd_aio_disconnect(handle_, 0);
    } else if (handle_ != nullptr && state_ == State::ready) {
        // So that libnbd gives back what it has.
        (void)::shutdown(socket_.get(), SHUT_RDWR);
        pump();
    }
    let_go();
    leaving_ = tell_ready_ = tell_ended_ = false;
}

// --- Requests ---

void Connection::submit(Io& io, bool fua) {
    INVARIANT(ready());
    new (io.scratch.data()) Parts{.connection = this, .left = 1};
    ++in_flight_;
    if (io.op == Op::read || io.op == Op::write) {
        issue_data(io, fua ? LIBNBD_CMD_FLAG_FUA : 0);
    } else {
        issue_range(io);
    }
    part_done(io, 0);
    // libnbd has sent what the socket took; the rest waits for it.
    if (nbd_aio_is_ready(handle_) != 0) return;
    reactor_.schedule(task_);
}

namespace {

nbd_completion_callback telling(Io& io, int (*tell)(void*, int*)) { return {.callback = tell, .user_data = &io, .free = nullptr}; }

}  // namespace

void Connection::issue_data(Io& io, uint32_t flags) {
    const auto tell = [](void* data, int* error) {
        Io& told = *static_cast<Io*>(data);
        parts(told).connection->part_done(told, *error);
        return 1;
    };
    uint64_t offset = io.offset;
    for (const iovec& vector : io.vectors) {
        auto* base = static_cast<std::byte*>(vector.iov_base);
        for (size_t at = 0; at < vector.iov_len; at += export_.largest) {
            const size_t length = std::min<size_t>(vector.iov_len - at, export_.largest);
            ++parts(io).left;
            issued(io, io.op == Op::read ? nbd_aio_pread(handle_, base + at, length, offset, telling(io, tell), 0)
                                         : nbd_aio_pwrite(handle_, base + at, length, offset, telling(io, tell), flags));
            offset += length;
        }
    }
}

void Connection::issue_range(Io& io) {
    const auto tell = [](void* data, int* error) {
        Io& told = *static_cast<Io*>(data);
        parts(told).connection->part_done(told, *error);
        return 1;
    };
    if (io.op == Op::flush) {
        ++parts(io).left;
        return issued(io, nbd_aio_flush(handle_, telling(io, tell), 0));
    }
    const bool write_zeros = io.op == Op::zero && !export_.zero;
    const uint64_t most = write_zeros ? std::min<uint64_t>(kZeroBytes, export_.largest) : kLargestRange;
    for (uint64_t at = 0; at < io.length; at += most) {
        const uint64_t length = std::min(io.length - at, most);
        const uint64_t offset = io.offset + at;
        ++parts(io).left;
        if (write_zeros) {
            issued(io, nbd_aio_pwrite(handle_, zeros().data(), length, offset, telling(io, tell), 0));
        } else if (io.op == Op::zero) {
            issued(io, nbd_aio_zero(handle_, length, offset, telling(io, tell), 0));
        } else {
            issued(io, nbd_aio_trim(handle_, length, offset, telling(io, tell), 0));
        }
    }
}

// What libnbd did not take it does not tell of.
void Connection::issued(Io& io, int64_t cookie) {
    if (cookie >= 0) return;
    const bool gone = nbd_aio_is_dead(handle_) != 0 || nbd_aio_is_closed(handle_) != 0;
    part_done(io, gone ? ENOTCONN : std::max(nbd_get_errno(), 1));
}

// Perhaps from inside libnbd, which must not be called from here.
void Connection::part_done(Io& io, int error) {
    Parts& mine = parts(io);
    // ESHUTDOWN: the server ends, and did not do this one.
    if (error == ENOTCONN || error == ESHUTDOWN) mine.lost = true;
    if (error != 0 && mine.result == 0) mine.result = error == ENOSPC || error == EOPNOTSUPP ? -error : -EIO;
    if (error == ESHUTDOWN && state_ == State::ready && !leaving_) {
        leaving_ = true;
        (void)::shutdown(socket_.get(), SHUT_WR);
    }
    if (--mine.left > 0) return;
    retired_.push(io);
    reactor_.schedule(task_);
}

}  // namespace ringback::image::nbd
