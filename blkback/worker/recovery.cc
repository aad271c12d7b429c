// SPDX-License-Identifier: Apache-2.0
#include "blkback/worker/recovery.h"

#include <algorithm>
#include <functional>
#include <utility>

namespace ringback::blk::worker {

namespace {

Error impossible(const char* what) { return {EPROTO, std::string("recover a queue: ") + what}; }

}  // namespace

Result<Owed> read_owed(const QueueJournal& journal, uint32_t published) {
    const auto entries = static_cast<uint32_t>(journal.slots.size());
    constexpr uint16_t kNobody = 0xffff;
    Owed owed;
    owed.req_cons = std::atomic_ref(journal.header->req_cons).load(std::memory_order_acquire);
    owed.rsp_prod = published;
    const uint32_t noted = std::atomic_ref(journal.header->rsp_prod).load(std::memory_order_acquire);
    if (owed.req_cons - noted > entries) return impossible("the journal holds more than the ring");

    // A request that takes long may be older than the ring is large: only its order counts. Responses have a place each.
    std::vector<std::pair<uint32_t, uint16_t>> taken;  // distance back from req_cons
    std::vector<uint16_t> responding(entries, kNobody);
    uint32_t answers = 0;
    for (uint16_t index = 0; index < entries; ++index) {
        const Slot& slot = journal.slots[index];
        switch (slot.state) {
            case SlotState::free: break;
            case SlotState::taken: taken.emplace_back(owed.req_cons - slot.request_index, index); break;
            case SlotState::responding: {
                const uint32_t ahead = slot.response_index - noted;
                if (ahead >= entries) {
                    // Published and noted; its slot was about to be freed.
                    if (noted - slot.response_index > entries) return impossible("a response is of no place");
                    owed.done.push_back(index);
                    break;
                }
                if (responding[ahead] != kNobody) return impossible("two responses for one place");
                responding[ahead] = index;
                ++answers;
                break;
            }
            default: return impossible("a slot is in no state");
        }
    }
    if (published - noted > answers) return impossible("the ring's rsp_prod is not one that was published");
    for (uint32_t ahead = 0; ahead < answers; ++ahead) {
        if (responding[ahead] == kNobody) return impossible("a response is missing");
        (ahead < published - noted ? owed.done : owed.unpublished).push_back(responding[ahead]);
    }
    std::sort(taken.begin(), taken.end(), std::greater<>());
    for (size_t i = 0; i < taken.size(); ++i) {
        const auto& [age, index] = taken[i];
        if (i > 0 && taken[i - 1].first == age) return impossible("a request is there twice");
        (age == 0 ? owed.done : owed.replay).push_back(index);  // 0: the ring still holds it
    }
    if (owed.replay.size() + owed.unpublished.size() != owed.req_cons - published) {
        return impossible("what is owed is not what was taken");
    }
    return owed;
}

}  // namespace ringback::blk::worker
