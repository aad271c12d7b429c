// SPDX-License-Identifier: Apache-2.0
//
// See disk.h.
#include "tools/nbdkit-blkfront/disk.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace ringback::frontend {

// A part of a call that fits into one ring entry.
struct Disk::Piece {
    Request request;
    Call* call = nullptr;
};

Result<std::unique_ptr<Disk>> Disk::open(const Options& options) {
    std::unique_ptr<Blkfront> front = TRY(Blkfront::create(options));
    TRY(front->attach());
    std::unique_ptr<Disk> disk(new Disk(std::move(front)));
    TRY(disk->start());
    return disk;
}

Result<void> Disk::start() {
    stop_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!stop_) return os_error("make an eventfd");
    for (size_t i = 0; i < front_->queue_count(); ++i) {
        lanes_.push_back(std::make_unique<Lane>());
        Lane& lane = *lanes_.back();
        lane.queue = &front_->queue(i);
        lane.thread = std::thread([this, &lane] { serve(lane); });
    }
    watcher_ = std::thread([this] { watch_backend(); });
    return {};
}

Disk::~Disk() {
    const uint64_t one = 1;
    if (stop_) (void)!::write(stop_.get(), &one, sizeof one);
    for (auto& lane : lanes_)
        if (lane->thread.joinable()) lane->thread.join();
    if (watcher_.joinable()) watcher_.join();
    if (front_) (void)front_->close();
}

void Disk::serve(Lane& lane) {
    std::array<pollfd, 2> fds{{{lane.queue->fd(), POLLIN, 0}, {stop_.get(), POLLIN, 0}}};
    while (::poll(fds.data(), fds.size(), -1) >= 0 || errno == EINTR) {
        if (fds[1].revents != 0) return;
        if (fds[0].revents == 0) continue;
        std::lock_guard lock(lane.mutex);
        (void)lane.queue->handle_event();
        lane.changed.notify_all();
        if (!lane.queue->broken().empty()) return;
    }
}

void Disk::watch_backend() {
    std::array<pollfd, 2> fds{{{front_->store_fd(), POLLIN, 0}, {stop_.get(), POLLIN, 0}}};
    // The first look takes what arrived while the disk was attached.
    do {
        if (front_->poll_backend() != Change::closing) continue;
        for (auto& lane : lanes_) {
            std::lock_guard lock(lane->mutex);
            lane->queue->fail_all("the backend closed the disk");
            lane->changed.notify_all();
        }
        return;
    } while ((::poll(fds.data(), fds.size(), -1) >= 0 || errno == EINTR) && fds[1].revents == 0);
}

std::string Disk::dead() {
    for (auto& lane : lanes_) {
        std::lock_guard lock(lane->mutex);
        if (!lane->queue->broken().empty()) return lane->queue->broken();
    }
    return {};
}

int Disk::run(Op op, std::byte* data, uint64_t sector, uint64_t sectors) {
    Lane& lane = *lanes_[next_lane_.fetch_add(1, std::memory_order_relaxed) % lanes_.size()];
    const bool moves_data = op == Op::read || op == Op::write;
    const uint32_t step = info_.max_segments * kPageSize / kSectorSize;
    const auto count = moves_data ? static_cast<uint32_t>((sectors + step - 1) / step) : 1U;
    std::vector<Piece> pieces(count);
    Call call;
    std::unique_lock lock(lane.mutex);
    for (Piece& piece : pieces) {
        piece.call = &call;
        piece.request.op = op;
        piece.request.sector = sector;
        piece.request.owner = &piece;
        piece.request.done = [](Request& request, int status) {
            Call& done = *static_cast<Piece*>(request.owner)->call;
            --done.left;
            if (status != 0 && done.status == 0) done.status = status;
        };
        if (moves_data) {
            const auto part = static_cast<uint32_t>(std::min<uint64_t>(sectors, step));
            piece.request.data = data;
            piece.request.length = part * kSectorSize;
            sector += part;
            sectors -= part;
            data += part * kSectorSize;
        } else {
            piece.request.sectors = sectors;
        }
        while (!lane.queue->submit(piece.request)) {
            lane.queue->push();
            if (!lane.queue->broken().empty()) break;
            lane.changed.wait(lock);
        }
        if (!lane.queue->broken().empty()) {
            call.status = kNoAnswer;
            break;
        }
        ++call.left;
    }
    lane.queue->push();
    lane.changed.wait(lock, [&] { return call.left == 0; });
    if (call.status == 0) return 0;
    return call.status == xen::blkif::kNotSupported ? EOPNOTSUPP : EIO;
}

int Disk::read(std::byte* to, uint64_t offset, uint32_t length) {
    return run(Op::read, to, offset / kSectorSize, length / kSectorSize);
}

int Disk::write(const std::byte* from, uint64_t offset, uint32_t length) {
    return run(Op::write, const_cast<std::byte*>(from), offset / kSectorSize, length / kSectorSize);
}

int Disk::flush() {
    return run(Op::flush, nullptr, 0, 0);
}

int Disk::discard(uint64_t offset, uint64_t length) {
    return run(Op::discard, nullptr, offset / kSectorSize, length / kSectorSize);
}

}  // namespace ringback::frontend
