// SPDX-License-Identifier: Apache-2.0
//
// Whom a worker runs as: a user of its own for every domain, out of a range that no distribution gives away (above the
// container range of systemd's, UIDS-GIDS), so that workers can do nothing to each other and no account has to be made. They share
// a group, which may call blkbackd.
#pragma once

#include <sys/types.h>

#include "hypervisor/xenbus.h"

namespace ringback::blk {

inline constexpr uid_t kFirstWorkerUser = 1'880'000'000;
inline constexpr gid_t kWorkerGroup = kFirstWorkerUser;

[[nodiscard]] inline uid_t worker_user(xen::Domid domid) { return kFirstWorkerUser + domid; }

}  // namespace ringback::blk
