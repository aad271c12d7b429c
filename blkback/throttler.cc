// SPDX-License-Identifier: Apache-2.0
#include "blkback/throttler.h"

#include <algorithm>
#include <limits>
#include <set>

#include "blkback/throttle_share.h"
#include "hypervisor/guest.h"
#include "runtime/log.h"

namespace ringback::blk {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kDealPeriod{200};
constexpr milliseconds kIdlePeriod{1000};  // nobody took anything
constexpr milliseconds kLeastSpan{50};     // in less a rate is not seen
// A disk that was held back would have taken more: how much more is seen when it has it. One that was not may take a little
// more the next time.
constexpr double kHeldDemand = 1.5;
constexpr double kFreeDemand = 1.25;

double demand(bool held, uint64_t given, std::optional<double> measured, uint64_t own) {
    constexpr double kAll = std::numeric_limits<double>::infinity();
    double wanted = kAll;
    if (held && given != 0) wanted = static_cast<double>(given) * kHeldDemand;
    if (!held && measured) wanted = *measured * kFreeDemand;
    return own == 0 ? wanted : std::min(wanted, static_cast<double>(own));
}

// The lower one of two limits, of which 0 is none.
template <typename Number>
Number lower(Number a, Number b) {
    return a == 0 || b == 0 ? std::max(a, b) : std::min(a, b);
}

bool same(const Limit& a, const Limit& b) {
    return a.operations == b.operations && a.bytes == b.bytes && a.burst_ms == b.burst_ms;
}

uint64_t requests(const Stats& stats) { return stats.reads + stats.writes + stats.flushes + stats.discards + stats.errors; }

}  // namespace

Throttler::~Throttler() {
    if (timer_) loop_.cancel(*timer_);
}

void Throttler::load() {
    if (const auto loaded = book_.load(); !loaded) log::error("no disk is limited: {}", loaded.error().message);
}

void Throttler::saw(Device& device) {
    const auto found = members_.find(device.id());
    const bool open = device.image() == ImagePhase::open;
    if (open == (found != members_.end())) return;
    if (!open) return gone(device.id());
    Member& member = members_[device.id()];
    member.device = &device;
    member.uuid = xen::guest_uuid(store_, device.id().domid);
    deal();
}

void Throttler::gone(const xen::DeviceId& id) {
    if (members_.erase(id) > 0) deal();
}

std::vector<Throttler::Pool> Throttler::pools() {
    std::map<std::string, Pool> guests;
    std::map<std::string, Pool> groups;
    for (auto& [id, member] : members_) {
        member.own = book_.disk({member.uuid, member.device->vdev()});
        if (const Rate rate = book_.guest(member.uuid); rate.limited()) {
            Pool& pool = guests[member.uuid];
            pool.rate = rate;
            pool.members.push_back(&member);
        }
        const Rate* group = book_.group(member.own.group);
        if (group == nullptr || !group->limited()) continue;
        Pool& pool = groups[member.own.group];
        pool.rate = *group;
        pool.members.push_back(&member);
    }
    std::vector<Pool> all;
    for (auto* kind : {&guests, &groups}) {
        for (auto& [name, pool] : *kind) all.push_back(std::move(pool));
    }
    return all;
}

void Throttler::deal() {
    const std::vector<Pool> all = pools();
    std::map<Member*, Limit> limits;
    for (auto& [id, member] : members_) {
        const Rate& own = member.own.rate;
        limits[&member] = {own.operations, own.bytes, own.limited() ? own.burst_ms : 0};
    }
    std::set<Member*> sharing;
    bool busy = false;
    for (const Pool& pool : all) {
        std::vector<Claim> operations, bytes;
        for (const Member* member : pool.members) {
            const Rate& own = member->own.rate;
            const Limit given = member->limit.value_or(Limit{});
            operations.push_back({demand(member->held, given.operations, member->operations, own.operations),
                                  static_cast<double>(member->own.weight)});
            bytes.push_back({demand(member->held, given.bytes, member->bytes, own.bytes), static_cast<double>(member->own.weight)});
            busy = busy || member->held || member->operations.value_or(0) > 0;
        }
        const auto of_operations = share(pool.rate.operations, operations);
        const auto of_bytes = share(pool.rate.bytes, bytes);
        for (size_t i = 0; i < pool.members.size(); ++i) {
            Limit& limit = limits[pool.members[i]];
            if (pool.rate.operations != 0) limit.operations = lower(limit.operations, of_operations[i]);
            if (pool.rate.bytes != 0) limit.bytes = lower(limit.bytes, of_bytes[i]);
            limit.burst_ms = lower(limit.burst_ms, pool.rate.burst_ms);
            if (pool.members.size() > 1) sharing.insert(pool.members[i]);
        }
    }
    for (auto& [member, limit] : limits) {
        // An answer says what the disk takes: those that share are asked in any case.
        if (!member->limit || !same(*member->limit, limit) || member->next || sharing.contains(member)) tell(*member, limit);
    }
    if (timer_) loop_.cancel(*timer_);
    timer_.reset();
    if (sharing.empty()) return;
    timer_ = loop_.after(busy ? kDealPeriod : kIdlePeriod, [this] {
        timer_.reset();
        deal();
    });
}

void Throttler::tell(Member& member, const Limit& limit) {
    if (member.asked) {
        member.next = limit;
        return;
    }
    member.asked = true;
    member.limit = limit;
    member.next.reset();
    member.device->limit(limit, [this, id = member.device->id()](const Answer& answer) {
        const auto found = members_.find(id);
        if (found != members_.end()) answered(found->second, answer);
    });
}

void Throttler::answered(Member& member, const Answer& answer) {
    member.asked = false;
    if (answer.error != 0) return;
    const Clock::time_point now = Clock::now();
    const Stats& stats = answer.stats;
    if (!member.stats || now >= member.at + kLeastSpan) {
        if (member.stats) {
            const double seconds = std::chrono::duration<double>(now - member.at).count();
            const auto rate = [&](uint64_t is, uint64_t was) { return is < was ? 0.0 : static_cast<double>(is - was) / seconds; };
            member.operations = rate(requests(stats), requests(*member.stats));
            member.bytes = rate(stats.read_bytes + stats.write_bytes, member.stats->read_bytes + member.stats->write_bytes);
            member.held = stats.throttled_ns > member.stats->throttled_ns;
        }
        member.stats = stats;
        member.at = now;
    }
    if (member.next) tell(member, *member.next);
}

nlohmann::json Throttler::describe(const xen::DeviceId& id) const {
    const auto found = members_.find(id);
    if (found == members_.end() || !found->second.limit) return nullptr;
    const Member& member = found->second;
    const Limit& limit = *member.limit;
    if (limit.operations == 0 && limit.bytes == 0 && member.own.group.empty()) return nullptr;
    nlohmann::json described = {{"operations", limit.operations}, {"bytes", limit.bytes}, {"burst_ms", limit.burst_ms},
                                {"weight", member.own.weight}};
    if (!member.own.group.empty()) described["group"] = member.own.group;
    return described;
}

}  // namespace ringback::blk
