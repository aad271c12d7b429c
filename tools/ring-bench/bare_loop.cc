// SPDX-License-Identifier: Apache-2.0
//
// See bare_loop.h.
#include "tools/ring-bench/bare_loop.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <cstring>

#include "runtime/poll_policy.h"

namespace ringback::bench {

Result<std::unique_ptr<BareLoop>> BareLoop::open(const std::string& path, bool direct, uint32_t depth) {
    std::unique_ptr<BareLoop> loop(new BareLoop);
    loop->file_.reset(::open(path.c_str(), O_RDWR | O_CLOEXEC | (direct ? O_DIRECT : 0)));
    if (!loop->file_) return os_error("open " + path);
    loop->buffer_bytes_ = size_t{depth} * kBlock;
    void* memory = ::mmap(nullptr, loop->buffer_bytes_, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) return os_error("map buffers");
    loop->buffers_ = static_cast<std::byte*>(memory);
    std::memset(memory, 0x5a, loop->buffer_bytes_);
    io_uring_params params{};
    params.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
    if (int error = io_uring_queue_init_params(depth, &loop->ring_, &params); error < 0)
        return os_error(-error, "make an io_uring");
    loop->ring_open_ = true;
    const int fd = loop->file_.get();
    if (int error = io_uring_register_files(&loop->ring_, &fd, 1); error < 0)
        return os_error(-error, "register " + path);
    const iovec vector{memory, loop->buffer_bytes_};
    if (int error = io_uring_register_buffers(&loop->ring_, &vector, 1); error < 0)
        return os_error(-error, "register buffers");
    if (int error = io_uring_register_ring_fd(&loop->ring_); error < 0)
        return os_error(-error, "register the ring");
    return loop;
}

BareLoop::~BareLoop() {
    if (ring_open_) io_uring_queue_exit(&ring_);
    if (buffers_ != nullptr) ::munmap(buffers_, buffer_bytes_);
}

Slice BareLoop::run(const Job& job, uint64_t duration_ns) {
    Addresses addresses(job.blocks);
    Slice slice;
    const uint64_t cpu = thread_cpu_ns();
    const uint64_t start = monotonic_ns();
    do {
        for (uint32_t i = 0; i < job.depth; ++i) {
            io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
            const uint64_t offset = addresses.next() * kBlock;
            if (job.write)
                io_uring_prep_write_fixed(sqe, 0, buffers_ + i * kBlock, kBlock, offset, 0);
            else
                io_uring_prep_read_fixed(sqe, 0, buffers_ + i * kBlock, kBlock, offset, 0);
            sqe->flags |= IOSQE_FIXED_FILE;
        }
        for (uint32_t done = 0; done < job.depth;) {
            io_uring_submit_and_wait(&ring_, job.depth - done);
            io_uring_cqe* cqe;
            unsigned head;
            unsigned count = 0;
            io_uring_for_each_cqe(&ring_, head, cqe) {
                if (cqe->res != static_cast<int>(kBlock)) ++slice.errors;
                ++count;
            }
            io_uring_cq_advance(&ring_, count);
            done += count;
        }
        slice.operations += job.depth;
        slice.timed_ns = monotonic_ns() - start;
    } while (slice.timed_ns < duration_ns);
    slice.wall_ns = slice.timed_ns;
    slice.cpu_ns = thread_cpu_ns() - cpu;
    return slice;
}

}  // namespace ringback::bench
