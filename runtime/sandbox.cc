// SPDX-License-Identifier: Apache-2.0
#include "runtime/sandbox.h"

#include <cap-ng.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <algorithm>

#include "runtime/log.h"

namespace ringback {

Result<void> enter_sandbox(size_t locked_bytes) {
    rlimit limit{};
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur < locked_bytes) {
        const rlimit wanted{std::min<rlim_t>(locked_bytes, limit.rlim_max), limit.rlim_max};
        const rlimit raised{locked_bytes, std::max<rlim_t>(locked_bytes, limit.rlim_max)};
        if (setrlimit(RLIMIT_MEMLOCK, &raised) < 0 && setrlimit(RLIMIT_MEMLOCK, &wanted) < 0) {
            log::notice("raise the locked memory limit to {} bytes: not allowed, data buffers stay below {} bytes",
                        locked_bytes, limit.rlim_cur);
        }
    }
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return os_error("set no_new_privs");
    capng_clear(CAPNG_SELECT_CAPS);
    if (capng_apply(CAPNG_SELECT_CAPS) != 0) return os_error("drop all capabilities");
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) return os_error("forbid core dumps");
    return {};
}

}  // namespace ringback
