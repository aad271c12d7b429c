// SPDX-License-Identifier: Apache-2.0
//
// A pool in etcd, shared by many hosts.
//
// Optimistic: a transaction notes the revision of everything that it reads, keeps its writes to itself, and
// commits them on the condition that every revision is still the same. Whoever loses that race begins again,
// after a short random wait. Nobody holds a lock, so a host that dies in the middle leaves nothing to clean
// up. The rest period is an etcd lease: it runs on the cluster's clock, so hosts whose clocks differ agree on
// its end.
#pragma once

#include "mac-pool/store.h"

namespace ringback::mac {

[[nodiscard]] Result<std::unique_ptr<Store>> open_etcd(const Location& location);

}  // namespace ringback::mac
