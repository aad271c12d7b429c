// SPDX-License-Identifier: Apache-2.0
#include "runtime/ring_restrictions.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <vector>

namespace ringback {

namespace {

constexpr std::array kOperations{
    IORING_OP_NOP,         IORING_OP_READ,  IORING_OP_WRITE,     IORING_OP_READV,    IORING_OP_WRITEV,  IORING_OP_READ_FIXED,
    IORING_OP_WRITE_FIXED, IORING_OP_FSYNC, IORING_OP_FALLOCATE, IORING_OP_POLL_ADD, IORING_OP_TIMEOUT, IORING_OP_ASYNC_CANCEL,
};
// Files and buffers come and go with disks.
constexpr std::array kRegistrations{IORING_REGISTER_FILES_UPDATE, IORING_REGISTER_BUFFERS_UPDATE, IORING_REGISTER_RING_FDS,
                                    IORING_UNREGISTER_RING_FDS, IORING_REGISTER_ENABLE_RINGS};

}  // namespace

Result<void> restrict_ring(io_uring& ring) {
    std::vector<io_uring_restriction> rules;
    for (const auto operation : kOperations) {
        io_uring_restriction rule{};
        rule.opcode = IORING_RESTRICTION_SQE_OP;
        rule.sqe_op = static_cast<__u8>(operation);
        rules.push_back(rule);
    }
    for (const auto registration : kRegistrations) {
        io_uring_restriction rule{};
        rule.opcode = IORING_RESTRICTION_REGISTER_OP;
        rule.register_op = static_cast<__u8>(registration);
        rules.push_back(rule);
    }
    io_uring_restriction flags{};
    flags.opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
    flags.sqe_flags = IOSQE_FIXED_FILE;
    rules.push_back(flags);
    // liburing 2.3 declares io_uring_register_restrictions() but does not export it.
    const auto count = static_cast<unsigned>(rules.size());
    if (::syscall(__NR_io_uring_register, ring.ring_fd, IORING_REGISTER_RESTRICTIONS, rules.data(), count) == 0) return {};
    return os_error("restrict the io_uring");
}

}  // namespace ringback
