// SPDX-License-Identifier: Apache-2.0
//
// The steps of a request's life between which a worker may die. The product does nothing at them; the library that
// tests link is compiled with RINGBACK_STOP_AT_STEPS, and there the test says what happens: the worker kills itself, or
// a successor throws the journal away, so that the proof can be seen to fail.
#pragma once

#include <cstdint>

namespace ringback::blk::worker {

enum class Step : uint8_t {
    copied,           // the request is in its slot, which is still free
    marked_taken,     // taken, req_cons not moved
    taken,
    submitted,
    completed,        // the image's word, nothing answered
    noted,            // status and index stored, still taken
    marked_answered,  // responding, nothing in the ring
    answered,         // the response is in the ring, unpublished
    published,        // the journal's rsp_prod is behind
    publish_noted,    // the slots are not free yet
    freed,            // not notified
    notified,
    recovery_checked,   // the journal is read, nothing changed
    recovery_rewritten, // responses written again, unpublished
};
inline constexpr int kSteps = static_cast<int>(Step::recovery_rewritten) + 1;

#ifdef RINGBACK_STOP_AT_STEPS
void reached(Step step);
[[nodiscard]] bool journal_is_used();
#else
inline void reached(Step) {}
inline bool journal_is_used() { return true; }
#endif

}  // namespace ringback::blk::worker
