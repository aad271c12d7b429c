// SPDX-License-Identifier: Apache-2.0
//
// A pool in one SQLite file, shared by the processes of one host.
//
// WAL, so that readers do not wait; BEGIN IMMEDIATE, so that a transaction holds the write lock before it
// reads and is never refused half-way; synchronous=FULL, because an address that a guest's configuration
// already has must not be given out again after a power cut. A killed process leaves at most an unfinished
// tail in the log, which the next reader ignores. Not for network file systems (WAL needs shared memory):
// several hosts take etcd.
//
// Expired keys are those whose time has come; they are read as absent and overwritten or removed by their
// next writer.
#pragma once

#include "mac-pool/store.h"

namespace ringback::mac {

[[nodiscard]] Result<std::unique_ptr<Store>> open_sqlite(const Location& location, Clock clock, Open mode);

}  // namespace ringback::mac
