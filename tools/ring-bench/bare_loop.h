// SPDX-License-Identifier: Apache-2.0
//
// The denominator: an io_uring loop on the file with nothing around it. It uses what a good program would: a
// registered file, registered buffers, one thread that owns the ring, one system call for a batch.
#pragma once

#include <liburing.h>

#include <cstddef>
#include <memory>

#include "runtime/result.h"
#include "runtime/unique_fd.h"
#include "tools/ring-bench/loop.h"

namespace ringback::bench {

class BareLoop {
  public:
    [[nodiscard]] static Result<std::unique_ptr<BareLoop>> open(const std::string& path, bool direct,
                                                                uint32_t depth);
    ~BareLoop();
    BareLoop(const BareLoop&) = delete;
    BareLoop& operator=(const BareLoop&) = delete;

    [[nodiscard]] Slice run(const Job& job, uint64_t duration_ns);

  private:
    BareLoop() = default;
    UniqueFd file_;
    io_uring ring_{};
    bool ring_open_ = false;
    std::byte* buffers_ = nullptr;
    size_t buffer_bytes_ = 0;
};

}  // namespace ringback::bench
