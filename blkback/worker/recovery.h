// SPDX-License-Identifier: Apache-2.0
//
// What a dead worker's queue owes its guest, read from the journal (journal.h) and the ring's rsp_prod.
//
// With J the journal's rsp_prod and S the ring's:
//   - answers are published, then noted, then their slots are freed; so S is J plus a part of the slots that are
//     responding at J or later. S lies in the guest's memory: any other value is the guest's doing, and an error.
//   - taken: to be done again, in the order in which they were taken;
//   - responding, before S: the guest has its answer;
//   - responding, at S or later: the same response is due again, at the same index;
//   - taken with request_index == req_cons: the ring still holds it.
//
// The journal was written by a process that may have been broken by its guest. Nothing is believed: no request is there
// twice, every response has its place, and owed plus unpublished are exactly req_cons - S, or there is no recovery.
// What a request asks for is checked where every request is (request.h).
//
// Thread: any; a pure function.
#pragma once

#include <cstdint>
#include <vector>

#include "blkback/worker/journal.h"
#include "runtime/result.h"

namespace ringback::blk::worker {

struct Owed {
    uint32_t req_cons = 0;
    uint32_t rsp_prod = 0;                // published
    std::vector<uint16_t> unpublished;    // slots, in the order of their responses from rsp_prod on
    std::vector<uint16_t> replay;         // slots, in the order in which they were taken
    std::vector<uint16_t> done;           // slots to be freed
};

[[nodiscard]] Result<Owed> read_owed(const QueueJournal& journal, uint32_t published);

}  // namespace ringback::blk::worker
