// SPDX-License-Identifier: Apache-2.0
//
// An embedded core for the time of a benchmark: its own process and directory, both gone with this object.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "runtime/result.h"

namespace ringback::bench {

class Core {
  public:
    // Also points RINGBACK_CORE at it, for the libraries of this process.
    [[nodiscard]] static Result<std::unique_ptr<Core>> start();
    ~Core();
    Core(const Core&) = delete;
    Core& operator=(const Core&) = delete;

  private:
    Core() = default;
    std::string directory_;
    pid_t pid_ = -1;
};

}  // namespace ringback::bench
