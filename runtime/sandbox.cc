// SPDX-License-Identifier: Apache-2.0
#include "runtime/sandbox.h"

#include <cap-ng.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <algorithm>

#include "runtime/log.h"
#include "runtime/sandbox_stages.h"

namespace ringback {

namespace {

// A sanitizer's runtime reads files and makes processes of its own, up to the very end.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

void raise_locked_memory(size_t bytes) {
    rlimit limit{};
    if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur >= bytes) return;
    const rlimit wanted{std::min<rlim_t>(bytes, limit.rlim_max), limit.rlim_max};
    const rlimit raised{bytes, std::max<rlim_t>(bytes, limit.rlim_max)};
    if (setrlimit(RLIMIT_MEMLOCK, &raised) == 0 || setrlimit(RLIMIT_MEMLOCK, &wanted) == 0) return;
    log::notice("raise the locked memory limit to {} bytes: not allowed, data buffers stay below {} bytes", bytes, limit.rlim_cur);
}

// libcap-ng says which step failed by a negative number.
Result<void> become(const Identity& identity) {
    capng_clear(CAPNG_SELECT_BOTH);
    const auto flags = static_cast<capng_flags_t>(CAPNG_DROP_SUPP_GRP | CAPNG_CLEAR_BOUNDING);
    const int rc = capng_change_id(static_cast<int>(identity.user), static_cast<int>(identity.group), flags);
    if (rc == 0) return {};
    return os_error(EPERM, fmt::format("become user {} (step {})", identity.user, -rc));
}

}  // namespace

Result<void> enter_sandbox(const Sandbox& sandbox) {
    raise_locked_memory(sandbox.locked_bytes);
    if (sandbox.identity) TRY(become(*sandbox.identity));
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return os_error("set no_new_privs");
    capng_clear(CAPNG_SELECT_CAPS);
    if (capng_apply(CAPNG_SELECT_CAPS) != 0) return os_error("drop all capabilities");
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) return os_error("forbid core dumps");
    if (kSanitized || !sandbox.files_and_calls) return {};
    TRY(give_up_files());
    return give_up_calls();
}

}  // namespace ringback
