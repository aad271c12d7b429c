// SPDX-License-Identifier: Apache-2.0
//
// MemoryImage: a disk that answers when it is told to, in any order and with any result, so that an input decides what a real
// one leaves to chance. It touches all memory it is given.
#pragma once

#include <vector>

#include "disk-images/image.h"
#include "target.h"

namespace ringback::fuzz {

class MemoryImage final : public image::Image {
  public:
    MemoryImage(Reactor& reactor, uint64_t bytes, bool writable, bool discard) : reactor_(reactor), writable_(writable) {
        geometry_.bytes = bytes;
        geometry_.discard = discard;
        task_.image = this;
        task_.run = [](Task& task) noexcept { static_cast<AnswerTask&>(task).image->answer(); };
    }
    ~MemoryImage() override { INVARIANT(held_.empty() && ready_.empty()); }

    [[nodiscard]] const image::Geometry& geometry() const override { return geometry_; }
    [[nodiscard]] bool sync_failed() const override { return false; }
    [[nodiscard]] Result<void> refresh_size() override { return {}; }
    [[nodiscard]] Result<void> resize(uint64_t) override { return {}; }
    [[nodiscard]] Result<image::Extent> extent(uint64_t) override { return image::Extent{}; }

    void submit(std::span<image::Io*> batch) override {
        for (image::Io* io : batch) {
            check(*io);
            held_.push_back({io, 0});
        }
    }
    [[nodiscard]] size_t held() const { return held_.size(); }
    // Answers one, from a task as every image does.
    void complete(size_t which, int32_t result) {
        if (held_.empty()) return;
        which %= held_.size();
        ready_.push_back({held_[which].io, result});
        held_.erase(held_.begin() + static_cast<std::ptrdiff_t>(which));
        reactor_.schedule(task_);
    }

    // The first that `is` the one; false: none is.
    template <typename Is>
    bool complete_that(Is is, int32_t result) {
        for (size_t i = 0; i < held_.size(); ++i) {
            if (!is(*held_[i].io)) continue;
            complete(i, result);
            return true;
        }
        return false;
    }

  private:
    struct Answer {
        image::Io* io;
        int32_t result;
    };
    struct AnswerTask : Task {
        MemoryImage* image;
    };
    void check(const image::Io& io) const {
        INVARIANT((io.offset | io.length) % image::kSectorSize == 0);
        INVARIANT(io.length <= geometry_.bytes && io.offset <= geometry_.bytes - io.length);
        INVARIANT(writable_ || io.op == image::Op::read || io.op == image::Op::flush);
        INVARIANT(io.op != image::Op::discard || geometry_.discard);
        if (io.op != image::Op::read && io.op != image::Op::write) return;
        uint64_t sum = 0;
        for (const iovec& vector : io.vectors) {
            INVARIANT((reinterpret_cast<uintptr_t>(vector.iov_base) | vector.iov_len) % image::kSectorSize == 0);
            sum += vector.iov_len;
            if (io.op == image::Op::read) std::memset(vector.iov_base, 0x5a, vector.iov_len);
            if (io.op == image::Op::write) {
                const auto* bytes = static_cast<const volatile uint8_t*>(vector.iov_base);
                for (size_t at = 0; at < vector.iov_len; at += image::kSectorSize) (void)bytes[at];
            }
        }
        INVARIANT(sum == io.length);
    }
    void answer() {
        std::vector<Answer> now;
        now.swap(ready_);
        for (const Answer& one : now) one.io->done(*one.io, one.result);
    }

    Reactor& reactor_;
    image::Geometry geometry_;
    const bool writable_;
    std::vector<Answer> held_;
    std::vector<Answer> ready_;
    AnswerTask task_;
};

}  // namespace ringback::fuzz
