// SPDX-License-Identifier: Apache-2.0
#include "uring_recorder.h"

#include <dlfcn.h>
#include <sys/uio.h>

#include <algorithm>

namespace ringback::image::test {

UringRecorder& UringRecorder::instance() {
    static UringRecorder recorder;
    return recorder;
}

void UringRecorder::take(io_uring_sqe& sqe) {
    const bool writes = sqe.opcode == IORING_OP_WRITE || sqe.opcode == IORING_OP_WRITEV ||
                        sqe.opcode == IORING_OP_WRITE_FIXED;
    const bool reads =
        sqe.opcode == IORING_OP_READ || sqe.opcode == IORING_OP_READV || sqe.opcode == IORING_OP_READ_FIXED;
    const bool other = sqe.opcode == IORING_OP_FSYNC || sqe.opcode == IORING_OP_FALLOCATE;
    if (!writes && !reads && !other) return;
    if (countdown_ > 0 && --countdown_ == 0) {
        happened_ = true;
        const bool vectors = sqe.opcode == IORING_OP_WRITEV || sqe.opcode == IORING_OP_READV;
        if (shorten_ && vectors && sqe.len > 1) {
            sqe.len = 1;
        } else if (shorten_ && !vectors && !other && sqe.len > 512) {
            sqe.len = sqe.len / 1024 * 512;
        } else if (!shorten_) {
            faulted_ = sqe.user_data;
            const uint64_t user_data = sqe.user_data;
            sqe = {};
            sqe.opcode = IORING_OP_NOP;
            sqe.user_data = user_data;
            return;
        }
    }
    if (!recording_ || reads) return;
    Recorded one;
    one.issued = ++now_;
    one.offset = sqe.off;
    if (writes) {
        const iovec plain{reinterpret_cast<void*>(sqe.addr), sqe.len};
        const bool vectors = sqe.opcode == IORING_OP_WRITEV;
        const iovec* first = vectors ? reinterpret_cast<const iovec*>(sqe.addr) : &plain;
        for (const iovec* at = first; at < first + (vectors ? sqe.len : 1); ++at) {
            const auto* bytes = static_cast<const std::byte*>(at->iov_base);
            one.bytes.insert(one.bytes.end(), bytes, bytes + at->iov_len);
        }
        one.length = one.bytes.size();
    } else if (sqe.opcode == IORING_OP_FALLOCATE) {
        one.kind = Recorded::Kind::hole;
        one.length = sqe.addr;
    } else {
        one.kind = Recorded::Kind::sync;
    }
    open_.emplace_back(sqe.user_data, log_.size());
    log_.push_back(std::move(one));
}

void UringRecorder::before(io_uring* ring) {
    seen_ = *ring->cq.ktail;
    for (unsigned at = ring->sq.sqe_head; at != ring->sq.sqe_tail; ++at)
        take(ring->sq.sqes[at & *ring->sq.kring_mask]);
}

void UringRecorder::after(io_uring* ring) {
    for (; seen_ != __atomic_load_n(ring->cq.ktail, __ATOMIC_ACQUIRE); ++seen_) {
        io_uring_cqe& cqe = ring->cq.cqes[seen_ & *ring->cq.kring_mask];
        if (faulted_ != 0 && cqe.user_data == faulted_) {
            cqe.res = -error_;
            faulted_ = 0;
        }
        const auto found = std::find_if(open_.begin(), open_.end(),
                                        [&](const auto& one) { return one.first == cqe.user_data; });
        if (found == open_.end()) continue;
        if (found->second < log_.size()) log_[found->second].completed = ++now_;
        open_.erase(found);
    }
}

}  // namespace ringback::image::test

namespace {

template <typename Function>
Function real(const char* name) {
    return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

int io_uring_submit_and_get_events(io_uring* ring) {
    static const auto next = real<int (*)(io_uring*)>("io_uring_submit_and_get_events");
    auto& recorder = ringback::image::test::UringRecorder::instance();
    recorder.before(ring);
    const int result = next(ring);
    recorder.after(ring);
    return result;
}

int io_uring_submit_and_wait(io_uring* ring, unsigned count) {
    static const auto next = real<int (*)(io_uring*, unsigned)>("io_uring_submit_and_wait");
    auto& recorder = ringback::image::test::UringRecorder::instance();
    recorder.before(ring);
    const int result = next(ring, count);
    recorder.after(ring);
    return result;
}
}
