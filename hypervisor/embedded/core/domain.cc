// SPDX-License-Identifier: Apache-2.0
//
// See domain.h.
#include "hypervisor/embedded/core/domain.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <new>

namespace ringback::xen::embedded {
namespace {

// Xen keeps pins in small counters; the same reference can be mapped about this often.
constexpr std::uint16_t kMaxPins = 127;

}  // namespace

std::unique_ptr<Domain> Domain::create(std::uint16_t id, const DomainConfig& config) {
    std::unique_ptr<Domain> d(new Domain(id));
    d->memory_fd_ = Fd(::memfd_create(("domain-" + std::to_string(id) + "-memory").c_str(), MFD_CLOEXEC));
    d->shared_fd_ = Fd(::memfd_create(("domain-" + std::to_string(id) + "-shared").c_str(), MFD_CLOEXEC));
    if (!d->memory_fd_ || !d->shared_fd_) return nullptr;
    std::size_t memory_size = std::size_t{config.max_pages} * kPageSize;
    std::size_t shared_bytes = shared_size(config.max_pages);
    if (::ftruncate(d->memory_fd_.get(), static_cast<off_t>(memory_size)) != 0 ||
        ::ftruncate(d->shared_fd_.get(), static_cast<off_t>(shared_bytes)) != 0)
        return nullptr;
    d->memory_ = Mapped(d->memory_fd_.get(), memory_size);
    d->shared_ = Mapped(d->shared_fd_.get(), shared_bytes);
    if (!d->memory_ || !d->shared_) return nullptr;
    d->frames_ = config.max_pages;
    d->max_pages = config.max_pages;
    d->name = config.name;
    d->uuid = config.uuid;
    d->type = config.type;
    d->in_use_.resize(config.max_pages);
    d->ref_used_.resize(kGrantEntries);
    std::fill_n(d->ref_used_.begin(), kReservedRefs, true);
    d->slot_used_.resize(kCopySlots);
    d->vcpu_online.resize(config.max_vcpus);
    std::fill_n(d->vcpu_online.begin(), std::min(config.vcpus, config.max_vcpus), true);
    DomainShared* s = new (d->shared_.bytes()) DomainShared{};
    s->abi = kAbiVersion;
    s->domid = id;
    s->max_frames = config.max_pages;
    s->grant_entries = kGrantEntries;
    s->state = static_cast<std::uint32_t>(DomainState::alive);
    if (d->populate(config.pages) != 0) return nullptr;
    return d;
}

bool Domain::populated(std::uint32_t frame) const {
    return frame < frames_ && populated_map(shared())[frame].load() != 0;
}

int Domain::populate(std::uint32_t count) {
    if (pages + std::uint64_t{count} > max_pages) return ENOMEM;
    for (std::uint32_t frame = 0; count > 0 && frame < frames_; ++frame) {
        if (populated(frame)) continue;
        populated_map(shared())[frame] = 1;
        ++pages;
        --count;
    }
    return 0;
}

void Domain::punch(std::uint32_t frame) {
    ::fallocate(memory_fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                static_cast<off_t>(frame) * kPageSize, kPageSize);
}

bool Domain::hazard_on_frame(std::uint32_t frame) const {
    GrantEntry* table = grant_table(shared());
    std::uint32_t high = std::min(shared()->copy_slots_high.load(), kCopySlots);
    for (std::uint32_t i = 0; i < high; ++i) {
        for (std::uint64_t held : {shared()->slots[i].source.load(), shared()->slots[i].dest.load()})
            if (held != 0 && held <= kGrantEntries && entry_frame(table[held - 1].load()) == frame)
                return true;
    }
    return false;
}

bool Domain::copy_in_progress() const {
    std::uint32_t high = std::min(shared()->copy_slots_high.load(), kCopySlots);
    for (std::uint32_t i = 0; i < high; ++i)
        if (shared()->slots[i].source.load() != 0 || shared()->slots[i].dest.load() != 0) return true;
    return false;
}

int Domain::decrease_frame(std::uint32_t frame) {
    if (!populated(frame)) return EINVAL;
    if (frame_pins_.contains(frame)) return EBUSY;
    populated_map(shared())[frame] = 0;
    if (hazard_on_frame(frame)) {
        populated_map(shared())[frame] = 1;
        return EBUSY;
    }
    punch(frame);
    if (in_use_[frame]) {
        in_use_[frame] = false;
        --allocated;
    }
    --pages;
    return 0;
}

int Domain::decrease(std::uint32_t count) {
    for (std::uint32_t frame = frames_; count > 0 && frame-- > 1;) {
        if (!populated(frame) || in_use_[frame]) continue;
        if (decrease_frame(frame) == 0) --count;
    }
    return count == 0 ? 0 : ENOMEM;
}

int Domain::set_max_pages(std::uint32_t count) {
    // The memory file keeps its size, so a maximum can be lowered and raised again, but not above where it
    // began.
    if (count < pages || count > frames_) return EINVAL;
    max_pages = count;
    return 0;
}

int Domain::alloc_pages(std::uint32_t count, std::uint32_t& first) {
    if (count == 0 || count >= frames_) return count == 0 ? EINVAL : ENOMEM;
    for (int round = 0; round < 2; ++round) {
        std::uint32_t run = 0;
        for (std::uint32_t frame = round == 0 ? next_frame_ : 1; frame < frames_; ++frame) {
            run = populated(frame) && !in_use_[frame] ? run + 1 : 0;
            if (run < count) continue;
            first = frame + 1 - count;
            std::fill_n(in_use_.begin() + first, count, true);
            allocated += count;
            next_frame_ = frame + 1;
            return 0;
        }
    }
    return ENOMEM;
}

int Domain::free_pages(std::uint32_t first, std::uint32_t count) {
    if (first >= frames_ || count > frames_ - first) return EINVAL;
    for (std::uint32_t frame = first; frame < first + count; ++frame) {
        if (!in_use_[frame]) return EINVAL;
        in_use_[frame] = false;
        --allocated;
    }
    next_frame_ = std::min(next_frame_, first);
    return 0;
}

void Domain::release_unpinned_memory() {
    for (std::uint32_t frame = 0; frame < frames_; ++frame) {
        if (!populated(frame) || frame_pins_.contains(frame)) continue;
        populated_map(shared())[frame] = 0;
        --pages;
        if (in_use_[frame]) {
            in_use_[frame] = false;
            --allocated;
        }
    }
    // One call for each stretch without a pinned page.
    std::uint32_t start = 0;
    for (std::uint32_t frame = 0; frame <= frames_; ++frame) {
        if (frame < frames_ && !frame_pins_.contains(frame)) continue;
        if (frame > start)
            ::fallocate(memory_fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                        static_cast<off_t>(start) * kPageSize, static_cast<off_t>(frame - start) * kPageSize);
        start = frame + 1;
    }
}

bool Domain::alloc_refs(std::uint32_t count, std::vector<std::uint32_t>& refs) {
    refs.clear();
    for (int round = 0; round < 2 && refs.size() < count; ++round) {
        std::uint32_t end = round == 0 ? kGrantEntries : next_ref_;
        for (std::uint32_t ref = round == 0 ? next_ref_ : kReservedRefs; ref < end && refs.size() < count;
             ++ref) {
            if (ref_used_[ref]) continue;
            ref_used_[ref] = true;
            refs.push_back(ref);
        }
    }
    if (refs.size() < count) {
        free_refs(refs.data(), refs.size());
        refs.clear();
        return false;
    }
    if (!refs.empty()) next_ref_ = refs.back() + 1 < kGrantEntries ? refs.back() + 1 : kReservedRefs;
    return true;
}

void Domain::free_refs(const std::uint32_t* refs, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i)
        if (refs[i] >= kReservedRefs && refs[i] < kGrantEntries) ref_used_[refs[i]] = false;
}

GrantStatus Domain::pin(std::uint32_t ref, std::uint16_t caller, bool writable, std::uint32_t& frame) {
    if (dying_) return GrantStatus::bad_domain;
    if (ref >= kGrantEntries) return GrantStatus::bad_ref;
    GrantEntry& entry = grant_table(shared())[ref];
    std::uint64_t e = entry.load();
    do {
        if ((e & kTypeMask) != kPermitAccess || entry_domid(e) != caller) return GrantStatus::general_error;
        if (writable && (e & kReadOnly) != 0) return GrantStatus::general_error;
        if (!populated(entry_frame(e))) return GrantStatus::bad_page;
    } while (!entry.compare_exchange_weak(e, e | kReading | (writable ? kWriting : 0)));
    auto [found, fresh] = active_.try_emplace(ref);
    Active& active = found->second;
    if (fresh) active.frame = entry_frame(e);
    std::uint16_t& pins = writable ? active.writers : active.readers;
    if (pins >= kMaxPins || !populated(active.frame)) {
        if (active.writers == 0) entry.fetch_and(~kWriting);
        if (fresh) {
            active_.erase(found);
            entry.fetch_and(~kReading);
        }
        return GrantStatus::general_error;
    }
    ++pins;
    ++total_pins_;
    ++frame_pins_[active.frame];
    frame = active.frame;
    return GrantStatus::okay;
}

void Domain::unpin(std::uint32_t ref, bool writable) {
    auto found = active_.find(ref);
    if (found == active_.end()) return;
    Active& active = found->second;
    --(writable ? active.writers : active.readers);
    --total_pins_;
    auto pins = frame_pins_.find(active.frame);
    if (--pins->second == 0) {
        frame_pins_.erase(pins);
        if (dying_ && populated(active.frame)) {
            populated_map(shared())[active.frame] = 0;
            if (in_use_[active.frame]) {
                in_use_[active.frame] = false;
                --allocated;
            }
            punch(active.frame);
            --pages;
        }
    }
    GrantEntry& entry = grant_table(shared())[ref];
    if (active.writers == 0) entry.fetch_and(~kWriting);
    if (active.writers == 0 && active.readers == 0) {
        entry.fetch_and(~kReading);
        active_.erase(found);
    }
}

std::uint32_t Domain::granted() const {
    const GrantEntry* table = grant_table(shared());
    return static_cast<std::uint32_t>(std::count_if(
        table, table + kGrantEntries, [](const GrantEntry& e) { return (e.load() & kTypeMask) != 0; }));
}

int Domain::take_slot() {
    for (std::uint32_t i = 0; i < kCopySlots; ++i) {
        if (slot_used_[i]) continue;
        slot_used_[i] = true;
        if (shared()->copy_slots_high.load() <= i) shared()->copy_slots_high = i + 1;
        return static_cast<int>(i);
    }
    return -1;
}

void Domain::return_slot(int slot) {
    CopySlot& s = shared()->slots[slot];
    counters.copy_calls += s.calls.exchange(0);
    counters.copies += s.copies.exchange(0);
    counters.copy_failures += s.failures.exchange(0);
    counters.copy_bytes += s.bytes.exchange(0);
    s.source = 0;
    s.dest = 0;
    slot_used_[static_cast<std::size_t>(slot)] = false;
}

void Domain::set_dying() {
    dying_ = true;
    shared()->state = static_cast<std::uint32_t>(DomainState::dying);
}

}  // namespace ringback::xen::embedded
