// SPDX-License-Identifier: Apache-2.0
//
// Disk: a blkif frontend that several threads use at once, each waiting for its own request, as nbdkit's
// threads do.
//
// A caller takes a queue's lock, puts its pieces into the ring and notifies from its own thread; one thread
// per queue waits for the backend's events and wakes the callers. One more thread answers the backend's
// changes on XenBus, so that the disk can be detached under a running server: what is in flight then fails
// with EIO.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/unique_fd.h"
#include "tools/frontend/blkfront.h"

namespace ringback::frontend {

class Disk {
  public:
    [[nodiscard]] static Result<std::unique_ptr<Disk>> open(const Options& options);
    ~Disk();

    [[nodiscard]] const DiskInfo& info() const { return info_; }
    // Offsets and lengths in bytes, multiples of 512. 0 or an errno.
    [[nodiscard]] int read(std::byte* to, uint64_t offset, uint32_t length);
    [[nodiscard]] int write(const std::byte* from, uint64_t offset, uint32_t length);
    [[nodiscard]] int flush();
    [[nodiscard]] int discard(uint64_t offset, uint64_t length);
    // Why the disk is dead, or nothing.
    [[nodiscard]] std::string dead();

  private:
    struct Lane {
        std::mutex mutex;
        std::condition_variable changed;  // an answer came, or a page or an entry is free again
        Queue* queue = nullptr;
        std::thread thread;
    };
    struct Call {
        uint32_t left = 0;
        int status = 0;
    };
    struct Piece;

    explicit Disk(std::unique_ptr<Blkfront> front) : front_(std::move(front)), info_(front_->info()) {}
    [[nodiscard]] Result<void> start();
    [[nodiscard]] int run(Op op, std::byte* data, uint64_t sector, uint64_t sectors);
    void serve(Lane& lane);
    void watch_backend();

    std::unique_ptr<Blkfront> front_;
    DiskInfo info_;
    UniqueFd stop_;  // an eventfd that becomes readable once
    std::vector<std::unique_ptr<Lane>> lanes_;
    std::atomic<uint32_t> next_lane_{0};
    std::thread watcher_;
};

}  // namespace ringback::frontend
