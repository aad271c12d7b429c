// SPDX-License-Identifier: Apache-2.0
//
// Landlock (landlock(7)), by its system calls: no library of the distribution has it.
#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>

#include "runtime/log.h"
#include "runtime/sandbox_stages.h"
#include "runtime/unique_fd.h"

namespace ringback {

namespace {

// What each version of the kernel's interface can forbid (landlock_create_ruleset(2)). Truncate and device calls are not
// forbidden: they concern files that the supervisor has opened for us.
constexpr uint64_t kRightsOfFirst = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;
constexpr uint64_t kRefer = uint64_t{1} << 13;  // since the second; not in the headers of Linux 5.13

// Sizes and limits of block devices, who holds a lock, and which boot of this host a journal is of.
constexpr std::array kReadable{"/sys/dev/block", "/sys/devices", "/proc/locks", "/proc/sys/kernel/random/boot_id"};

Result<void> allow_reading(int rules, const char* path) {
    const UniqueFd place(::open(path, O_PATH | O_CLOEXEC));
    if (!place) return {};  // not there, then nobody reads it
    landlock_path_beneath_attr rule{};
    rule.allowed_access = LANDLOCK_ACCESS_FS_READ_FILE;
    rule.parent_fd = place.get();
    if (::syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) == 0) return {};
    return os_error(std::string("allow reading ") + path);
}

}  // namespace

Result<void> give_up_files() {
    const long version = ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (version < 0) {
        log::warning("this kernel has no landlock ({}): a worker that is taken over can open what its user may",
                     os_error("ask for its version").message);
        return {};
    }
    landlock_ruleset_attr attributes{};
    attributes.handled_access_fs = kRightsOfFirst | (version >= 2 ? kRefer : 0);
    const UniqueFd rules(static_cast<int>(::syscall(SYS_landlock_create_ruleset, &attributes, sizeof(attributes), 0)));
    if (!rules) return os_error("make a landlock ruleset");
    for (const char* path : kReadable) TRY(allow_reading(rules.get(), path));
    if (::syscall(SYS_landlock_restrict_self, rules.get(), 0) != 0) return os_error("enter landlock");
    return {};
}

}  // namespace ringback
