// SPDX-License-Identifier: Apache-2.0
//
// The memory limit counts by AddressSanitizer's hooks. The product's log lines are made and then go nowhere: what an input makes
// us write would hide what the fuzzer says. And io_uring's transfers are done at once (the linker's --wrap): the kernel gives those
// of a file in memory to a thread each, which takes a hundred times what the rest of an execution does, and ends in any order.
#include "target.h"

#include <fcntl.h>
#include <liburing.h>
#include <sys/uio.h>
#include <unistd.h>

#include <map>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/log.h"

// sanitizer/allocator_interface.h, which not every compiler brings.
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*allocated)(const volatile void*, size_t),
                                                         void (*released)(const volatile void*));
extern "C" size_t __sanitizer_get_allocated_size(const volatile void*);

namespace {

bool counting = false;
size_t held = 0;
size_t allowed = 0;

void on_allocation(const volatile void* pointer, size_t size) {
    if (!counting || pointer == nullptr) return;
    held += size;
    if (held <= allowed) return;
    counting = false;
    std::fprintf(stderr, "an execution holds %zu bytes of memory, %zu are its limit\n", held, allowed);
    std::abort();
}
void on_release(const volatile void* pointer) {
    if (!counting || pointer == nullptr) return;
    const size_t size = __sanitizer_get_allocated_size(pointer);
    held -= size < held ? size : held;  // what was there before the execution began
}

const int hooks = __sanitizer_install_malloc_and_free_hooks(on_allocation, on_release);

}  // namespace

namespace ringback::fuzz {

MemoryLimit::MemoryLimit(size_t bytes) {
    INVARIANT(hooks != 0);
    held = 0;
    allowed = bytes;
    counting = true;
}
MemoryLimit::~MemoryLimit() { counting = false; }

}  // namespace ringback::fuzz

// In the place of ringback::log::write_line (the linker's --wrap): the line was made, that is all.
extern "C" void __wrap__ZN8ringback3log10write_lineENS0_5LevelESt17basic_string_viewIcSt11char_traitsIcEE(
    ringback::log::Level, std::string_view text) {
    INVARIANT(text.data() != nullptr);
}

extern "C" int __real_io_uring_submit_and_get_events(io_uring* ring);
extern "C" int __real_io_uring_submit_and_wait(io_uring* ring, unsigned count);
extern "C" int __real_io_uring_register_files_update(io_uring* ring, unsigned at, const int* files, unsigned count);

namespace {

std::map<std::pair<const io_uring*, int>, int> registered;  // files, by their place in the ring's table

// 0 or more: what was done; -errno. False: it is for the kernel.
bool transfer(const io_uring* ring, const io_uring_sqe& sqe, ssize_t& result) {
    int file = sqe.fd;
    if ((sqe.flags & IOSQE_FIXED_FILE) != 0) {
        const auto found = registered.find({ring, file});
        if (found == registered.end()) return false;
        file = found->second;
    }
    auto* memory = reinterpret_cast<void*>(sqe.addr);
    const auto at = static_cast<off_t>(sqe.off);
    switch (sqe.opcode) {
        case IORING_OP_FSYNC: result = 0; break;
        case IORING_OP_READ:
        case IORING_OP_READ_FIXED: result = ::pread(file, memory, sqe.len, at); break;
        case IORING_OP_WRITE:
        case IORING_OP_WRITE_FIXED: result = ::pwrite(file, memory, sqe.len, at); break;
        case IORING_OP_READV: result = ::preadv(file, static_cast<iovec*>(memory), static_cast<int>(sqe.len), at); break;
        case IORING_OP_WRITEV: result = ::pwritev(file, static_cast<iovec*>(memory), static_cast<int>(sqe.len), at); break;
        case IORING_OP_FALLOCATE: result = ::fallocate(file, static_cast<int>(sqe.len), at, static_cast<off_t>(sqe.addr)); break;
        default: return false;
    }
    if (result < 0) result = -errno;
    return true;
}

// What is done here goes to the kernel as a request to do nothing, whose completion gets the result.
template <typename Submit>
int submit(io_uring* ring, Submit real) {
    std::vector<std::pair<__u64, ssize_t>> done;
    for (unsigned at = *ring->sq.khead; at != ring->sq.sqe_tail; ++at) {
        io_uring_sqe& sqe = ring->sq.sqes[at & ring->sq.ring_mask];
        ssize_t result = 0;
        if (!transfer(ring, sqe, result)) continue;
        const auto flags = static_cast<__u8>(sqe.flags & ~IOSQE_FIXED_FILE);
        const auto data = sqe.user_data;
        sqe = {};
        sqe.opcode = IORING_OP_NOP;
        sqe.flags = flags;
        sqe.user_data = data;
        done.emplace_back(data, result);
    }
    const int submitted = real();
    for (unsigned at = *ring->cq.khead; at != *ring->cq.ktail; ++at) {
        io_uring_cqe& cqe = ring->cq.cqes[at & ring->cq.ring_mask];
        const auto found = std::find_if(done.begin(), done.end(), [&cqe](const auto& one) { return one.first == cqe.user_data; });
        if (found == done.end()) continue;
        cqe.res = static_cast<int>(found->second);
        done.erase(found);
    }
    INVARIANT(done.empty());
    return submitted;
}

}  // namespace

extern "C" int __wrap_io_uring_submit_and_get_events(io_uring* ring) {
    return submit(ring, [ring] { return __real_io_uring_submit_and_get_events(ring); });
}
extern "C" int __wrap_io_uring_submit_and_wait(io_uring* ring, unsigned count) {
    return submit(ring, [ring, count] { return __real_io_uring_submit_and_wait(ring, count); });
}
extern "C" int __wrap_io_uring_register_files_update(io_uring* ring, unsigned at, const int* files, unsigned count) {
    for (unsigned i = 0; i < count; ++i) registered[{ring, static_cast<int>(at + i)}] = files[i];
    return __real_io_uring_register_files_update(ring, at, files, count);
}
