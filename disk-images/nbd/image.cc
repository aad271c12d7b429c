// SPDX-License-Identifier: Apache-2.0
#include "disk-images/nbd/image.h"

#include <fmt/format.h>

#include <algorithm>

namespace ringback::image::nbd {

namespace {

using std::chrono::milliseconds;

constexpr size_t kConnections = 4;             // with a server that takes several
constexpr unsigned kFirstTries = 4;            // a host may have several addresses
constexpr milliseconds kHandshakePatience{5000};  // the worker serves nobody meanwhile
constexpr milliseconds kRetry{100};
constexpr milliseconds kSlowRetry{1000};       // after giving up

bool changes(const Io& io) { return io.op != Op::read; }

int32_t& result_of(Io& io) { return *reinterpret_cast<int32_t*>(io.scratch.data()); }

}  // namespace

Result<std::unique_ptr<Image>> NbdImage::open(File file, Opener& opener, Reactor& reactor, const OpenOptions& options) {
    Address address = TRY(parse_address(file.name));
    std::unique_ptr<NbdImage> image(new NbdImage(std::move(address), opener, reactor, options));
    TRY(image->connect_first(std::move(file.fd)));
    return std::unique_ptr<Image>(std::move(image));
}

NbdImage::NbdImage(Address address, Opener& opener, Reactor& reactor, const OpenOptions& options)
    : address_(std::move(address)),
      opener_(opener),
      reactor_(reactor),
      writable_(options.writable),
      discard_(options.discard),
      patience_(options.reconnect_seconds),
      sync_failed_(options.sync_failed) {
    finisher_.image = this;
    finisher_.run = [](Task& self) noexcept { static_cast<Finisher&>(self).image->answer_finished(); };
    timer_.image = this;
    timer_.on_complete = [](Completion& self, int32_t, uint32_t) noexcept {
        NbdImage& image = *static_cast<Timer&>(self).image;
        image.timer_.armed = false;
        if (image.closing_ != nullptr) return image.all_stopped();
        image.go_on();
    };
    reopening_.image = this;
    reopening_.opened = [](Opener::Opening& self, Result<File> file) {
        static_cast<Reopening&>(self).image->opened(std::move(file));
    };
}

NbdImage::~NbdImage() {
    INVARIANT(owned_ == 0);
    if (reopening_.asked) opener_.forget(reopening_);
    for (const auto& connection : connections_) connection->stop();
    if (timer_.armed) reactor_.cancel(timer_);
    const auto busy = [this] {
        return timer_.armed || finisher_.scheduled ||
               std::any_of(connections_.begin(), connections_.end(), [](const auto& one) { return !one->idle(); });
    };
    while (busy()) reactor_.turn(reactor_.in_flight() > 0);
}

void NbdImage::add_connection() {
    Connection::Events& events = *this;
    connections_.push_back(std::make_unique<Connection>(reactor_, address_, events));
}

Result<void> NbdImage::connect_first(UniqueFd socket) {
    add_connection();
    for (unsigned attempt = 1;; ++attempt) {
        auto connected = connections_[0]->start_now(std::move(socket), kHandshakePatience);
        if (connected) break;
        // A refusal may be one address's of several; who does not answer within the time is not asked again.
        const bool again = attempt < kFirstTries && connected.error().message.find("connect: ") != std::string::npos;
        auto other = again ? opener_.open(address_.text, writable_ ? Opener::Access::write : Opener::Access::read)
                           : Result<File>(connected.error());
        if (!other) return connected.error();
        socket = std::move(other->fd);
    }
    TRY(take_geometry(connections_[0]->what()));
    while (export_.multi && connections_.size() < kConnections) add_connection();
    connections_[0]->serve();
    return {};
}

Result<void> NbdImage::take_geometry(const Export& what) {
    const std::string& name = address_.text;
    if (what.smallest > kSectorSize) {
        return Error{EINVAL, fmt::format("open {}: the server takes nothing below {} bytes; a disk has sectors of {}", name,
                                         what.smallest, kSectorSize)};
    }
    if (what.bytes < kSectorSize) {
        return Error{EINVAL, fmt::format("open {}: its size is {} bytes; a disk needs at least one sector of 512", name, what.bytes)};
    }
    if (writable_ && !what.writable) {
        return Error{EROFS, fmt::format("open {} for writing: the server has it read-only; use access=ro", name)};
    }
    if (writable_ && !what.flush && !what.fua) {
        log::warning("{}: the server knows no flush: what the guest asks it to keep is kept if the server keeps it by itself", name);
    }
    export_ = what;
    geometry_.bytes = what.bytes - what.bytes % kSectorSize;
    const uint32_t preferred = what.preferred == 0 ? 4096 : what.preferred;
    geometry_.physical_block = std::clamp<uint32_t>(preferred, kSectorSize, 4096);
    geometry_.discard = discard_ && writable_ && what.trim;
    geometry_.discard_granularity = geometry_.discard ? std::max(geometry_.physical_block, 4096U) : 0;
    return {};
}

// Why this is not the export that the disk began with; empty: it is.
std::string NbdImage::unlike(const Export& what) const {
    if (what.bytes < geometry_.bytes) return fmt::format("it has {} bytes now, and had {}", what.bytes, export_.bytes);
    if (what.smallest > kSectorSize) return "it takes no sectors of 512 bytes any more";
    if (writable_ && !what.writable) return "it is read-only now";
    if ((export_.flush && !what.flush) || (export_.fua && !what.fua)) return "it knows no flush any more";
    if (geometry_.discard && !what.trim) return "it knows no trim any more";
    if (connections_.size() > 1 && !what.multi) return "it wants one connection now";
    return {};
}

// --- Requests ---

void NbdImage::submit(std::span<Io*> batch) {
    INVARIANT(closing_ == nullptr);
    for (Io* io : batch) {
        INVARIANT(io->offset % kSectorSize == 0 && io->length % kSectorSize == 0 && io->length <= geometry_.bytes &&
                  io->offset <= geometry_.bytes - io->length);
        ++owned_;
        start(*io);
    }
}

void NbdImage::start(Io& io) {
    const bool flush = io.op == Op::flush;
    if (changes(io) && (sync_failed_ || (!writable_ && !flush))) return finish_later(io, -EIO);
    // Without a flush every write is made to stay by itself; without that either, there is nothing to ask for.
    if (flush && (!export_.flush || !writable_)) return finish_later(io, 0);
    if (io.op == Op::discard && !geometry_.discard) return finish_later(io, -EOPNOTSUPP);
    if (io.length == 0 && !flush) return finish_later(io, 0);
    Connection* connection = least_busy();
    if (connection != nullptr) return connection->submit(io, !export_.flush && export_.fua);
    if (gave_up_) return finish_later(io, -EIO);
    waiting_.push(io);
}

Connection* NbdImage::least_busy() const {
    Connection* best = nullptr;
    for (const auto& one : connections_) {
        if (one->ready() && (best == nullptr || one->in_flight() < best->in_flight())) best = one.get();
    }
    return best;
}

void NbdImage::done(Io& io, int32_t result, bool lost) noexcept {
    if (!lost) return finish_later(io, result);
    if (gave_up_) return finish_later(io, -EIO);
    waiting_.push(io);
}

// What was lost is done again when nothing of it can land any more.
void NbdImage::restart_waiting() {
    const bool draining = std::any_of(connections_.begin(), connections_.end(), [](const auto& one) { return one->draining(); });
    if (draining || least_busy() == nullptr) return;
    IoList waiting = waiting_.take();
    while (!waiting.empty()) start(waiting.pop());
}

void NbdImage::finish_later(Io& io, int32_t result) {
    if (io.op == Op::flush && result != 0 && !sync_failed_) {
        sync_failed_ = true;
        log::error("{}: flush: {}; writes and flushes fail from now on, until the disk is attached again", address_.text,
                   std::generic_category().message(-result));
    }
    if (changes(io) && sync_failed_) result = -EIO;
    result_of(io) = result;
    finished_.push(io);
    reactor_.schedule(finisher_);
}

void NbdImage::answer_finished() {
    IoList finished = finished_.take();
    while (!finished.empty()) {
        Io& io = finished.pop();
        --owned_;
        // Last: with its last request answered the caller may do with the image what he likes.
        io.done(io, result_of(io));
    }
}

// --- Connections ---

size_t NbdImage::count_ready() const {
    return static_cast<size_t>(std::count_if(connections_.begin(), connections_.end(), [](const auto& one) { return one->ready(); }));
}

void NbdImage::ready(Connection& connection) noexcept {
    if (closing_ != nullptr) return;
    if (const std::string why = unlike(connection.what()); !why.empty()) {
        if (complaints_.allow()) log::warning("{}: the server does not have the same export: {}", address_.text, why);
        why_lost_ = "another export: " + why;
        connection.stop();
        return go_on();
    }
    if (lost_at_ != Clock::time_point{} && count_ready() == 1) {
        log::notice("{}: the server is back after {} ms", address_.text,
                    std::chrono::duration_cast<milliseconds>(Clock::now() - lost_at_).count());
        lost_at_ = {};
    }
    gave_up_ = false;
    restart_waiting();
    go_on();
}

void NbdImage::ended(Connection&, const std::string& why) noexcept {
    if (closing_ != nullptr) return;
    why_lost_ = why;
    restart_waiting();
    // With the last one gone, no slow try for the others is waited for any more.
    if (count_ready() == 0 && lost_at_ == Clock::time_point{} && timer_.armed) reactor_.cancel(timer_);
    go_on();
}

void NbdImage::go_on() {
    const auto now = Clock::now();
    if (count_ready() == 0 && lost_at_ == Clock::time_point{}) {
        lost_at_ = now;
        if (complaints_.allow()) {
            log::warning("{}: the server is gone ({}); requests wait for it, {} s at most", address_.text, why_lost_, patience_.count());
        }
    }
    if (lost_at_ != Clock::time_point{} && !gave_up_ && now >= lost_at_ + patience_) give_up();
    const bool missing = std::any_of(connections_.begin(), connections_.end(), [](const auto& one) { return !one->ready(); });
    if (!missing) return;
    if (!timer_.armed) arm_timer(gave_up_ || count_ready() > 0 ? kSlowRetry : kRetry);
    connect_one_more();
}

// One at a time.
void NbdImage::connect_one_more() {
    if (reopening_.asked) return;
    Connection* unused = nullptr;
    for (const auto& one : connections_) {
        if (one->idle()) unused = one.get();
        const bool starting = !one->idle() && !one->ready() && !one->draining();
        if (starting && Clock::now() < started_ + kHandshakePatience) return;
        if (starting) one->stop();
    }
    if (unused == nullptr) return;
    reopening_.asked = true;
    opener_.open_later(address_.text, writable_ ? Opener::Access::write : Opener::Access::read, reopening_);
}

void NbdImage::opened(Result<File> file) {
    reopening_.asked = false;
    if (!file) {  // the timer tries again
        why_lost_ = file.error().message;
        return;
    }
    const auto unused = std::find_if(connections_.begin(), connections_.end(), [](const auto& one) { return one->idle(); });
    if (unused == connections_.end()) return;
    started_ = Clock::now();
    (*unused)->start(std::move(file->fd));
}

void NbdImage::arm_timer(milliseconds delay) {
    timer_.armed = true;
    delay_ = {.tv_sec = delay.count() / 1000, .tv_nsec = delay.count() % 1000 * 1'000'000};
    reactor_.submit(timer_, [this](io_uring_sqe* sqe) { io_uring_prep_timeout(sqe, &delay_, 0, 0); });
}

void NbdImage::give_up() {
    gave_up_ = true;
    log::error("{}: no server within {} s ({}); requests fail until there is one", address_.text, patience_.count(), why_lost_);
    // One that hangs while it is drained is not waited for: what it had is answered with errors now.
    for (const auto& connection : connections_) {
        if (connection->draining()) connection->stop();
    }
    IoList waiting = waiting_.take();
    while (!waiting.empty()) finish_later(waiting.pop(), -EIO);
}

void NbdImage::close(Closing& closing) {
    INVARIANT(owned_ == 0 && closing_ == nullptr);
    closing_ = &closing;
    if (reopening_.asked) opener_.forget(reopening_);
    reopening_.asked = false;
    for (const auto& connection : connections_) connection->stop();
    if (timer_.armed) {
        reactor_.cancel(timer_);
    } else {
        arm_timer(milliseconds(0));
    }
}

void NbdImage::all_stopped() {
    const bool idle = std::all_of(connections_.begin(), connections_.end(), [](const auto& one) { return one->idle(); });
    if (!idle || finisher_.scheduled) {
        if (!timer_.armed) arm_timer(milliseconds(1));
        return;
    }
    if (timer_.armed) return;
    closing_->closed(*closing_, 0);
}

// --- For tools ---

Result<void> NbdImage::refresh_size() {
    return Error{EOPNOTSUPP, fmt::format("resize {}: a server tells the size when it is connected to; detach and attach the disk",
                                         address_.text)};
}

Result<Extent> NbdImage::extent(uint64_t offset) {
    INVARIANT(offset < geometry_.bytes && offset % kSectorSize == 0);
    return Extent{.length = geometry_.bytes - offset};
}

Result<void> NbdImage::resize(uint64_t) { return os_error(EOPNOTSUPP, "resize " + address_.text); }

}  // namespace ringback::image::nbd
