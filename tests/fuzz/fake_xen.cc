// SPDX-License-Identifier: Apache-2.0
#include "fake_xen.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

extern "C" {
#include <xenevtchn.h>
}

#include <cerrno>
#include <cstring>
#include <map>
#include <set>

#include "runtime/check.h"

namespace ringback::fuzz {

namespace {

constexpr size_t kPage = xen::kPageSize;

// A page that nobody may touch lies before and behind.
std::byte* map_with_edges(int memory, std::span<const uint32_t> refs, int protection) {
    void* around = ::mmap(nullptr, (refs.size() + 2) * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    INVARIANT(around != MAP_FAILED);
    std::byte* address = static_cast<std::byte*>(around) + kPage;
    for (size_t i = 0; i < refs.size(); ++i) {
        const auto offset = static_cast<off_t>((refs[i] - 1) * kPage);
        INVARIANT(::mmap(address + i * kPage, kPage, protection, MAP_SHARED | MAP_FIXED, memory, offset) != MAP_FAILED);
    }
    return address;
}

struct Machine {
    int memory = -1;
    std::byte* pages[kPages]{};      // the guest's own view
    std::byte* mappings[kPages]{};   // of one page each, made once
    uint32_t uses[kPages]{};
    std::map<std::byte*, size_t> large;  // of several pages
    std::set<evtchn_port_t> ports;
    int events = -1;

    Machine() {
        memory = ::memfd_create("guest", MFD_CLOEXEC);
        INVARIANT(memory >= 0 && ::ftruncate(memory, kPages * kPage) == 0);
        events = ::eventfd(0, EFD_CLOEXEC);
        INVARIANT(events >= 0);
        for (uint32_t i = 0; i < kPages; ++i) {
            const uint32_t ref = i + 1;
            pages[i] = map_with_edges(memory, {&ref, 1}, PROT_READ | PROT_WRITE);
            mappings[i] = map_with_edges(memory, {&ref, 1}, ref >= kReadOnlyFrom ? PROT_READ : PROT_READ | PROT_WRITE);
        }
    }
};

Machine& machine() {
    static Machine only;
    return only;
}

uint32_t known(uint32_t ref) { return FakeXen::get().translate ? FakeXen::get().translate(ref) : ref; }

bool may(uint32_t domid, uint32_t ref, bool write) {
    return domid == kGuest && FakeXen::granted(ref) && (!write || ref < kReadOnlyFrom);
}

}  // namespace

FakeXen& FakeXen::get() {
    static FakeXen only;
    return only;
}

void FakeXen::reset() {
    INVARIANT(mapped() == 0 && bound() == 0);
    for (std::byte* page : machine().pages) std::memset(page, 0, kPage);
    on_copy = nullptr;
    translate = nullptr;
    notified = 0;
}

std::span<std::byte> FakeXen::page(xen::GrantRef ref) {
    INVARIANT(granted(ref));
    return {machine().pages[ref - 1], kPage};
}

size_t FakeXen::mapped() const {
    size_t sum = machine().large.size();
    for (const uint32_t uses : machine().uses) sum += uses;
    return sum;
}

size_t FakeXen::bound() const { return machine().ports.size(); }

}  // namespace ringback::fuzz

using namespace ringback;
using namespace ringback::fuzz;

namespace {

// Handles are never looked into.
int handle_of_grants;
int handle_of_events;

bool copy_one(xengnttab_grant_copy_segment_t& segment) {
    const bool from_guest = (segment.flags & GNTCOPY_source_gref) != 0;
    const bool to_guest = (segment.flags & GNTCOPY_dest_gref) != 0;
    INVARIANT(from_guest || to_guest);
    INVARIANT(segment.len > 0);  // Xen takes it; nobody here means it
    const auto place = [&](const decltype(xengnttab_grant_copy_segment_t::source)& end, bool foreign, bool write) -> std::byte* {
        if (!foreign) return static_cast<std::byte*>(end.virt);
        const uint32_t ref = known(end.foreign.ref);
        if (!may(end.foreign.domid, ref, write)) return nullptr;
        if (size_t{end.foreign.offset} + segment.len > xen::kPageSize) return nullptr;
        return FakeXen::get().page(ref).data() + end.foreign.offset;
    };
    const std::byte* source = place(segment.source, from_guest, false);
    std::byte* dest = place(segment.dest, to_guest, true);
    if (source == nullptr || dest == nullptr) return false;
    std::memmove(dest, source, segment.len);
    return true;
}

}  // namespace

extern "C" {

xengnttab_handle* xengnttab_open(xentoollog_logger*, unsigned) { return reinterpret_cast<xengnttab_handle*>(&handle_of_grants); }
int xengnttab_close(xengnttab_handle*) { return 0; }

void* xengnttab_map_domain_grant_refs(xengnttab_handle*, uint32_t count, uint32_t domid, uint32_t* refs, int prot) {
    for (uint32_t i = 0; i < count; ++i) {
        refs[i] = known(refs[i]);
        if (may(domid, refs[i], (prot & PROT_WRITE) != 0)) continue;
        errno = EINVAL;
        return nullptr;
    }
    if (count == 1) {
        ++machine().uses[refs[0] - 1];
        return machine().mappings[refs[0] - 1];
    }
    std::byte* address = map_with_edges(machine().memory, {refs, count}, prot);
    machine().large.emplace(address, count);
    return address;
}

void* xengnttab_map_grant_ref(xengnttab_handle* handle, uint32_t domid, uint32_t ref, int prot) {
    return xengnttab_map_domain_grant_refs(handle, 1, domid, &ref, prot);
}

int xengnttab_unmap(xengnttab_handle*, void* start, uint32_t count) {
    auto* address = static_cast<std::byte*>(start);
    if (const auto found = machine().large.find(address); found != machine().large.end()) {
        INVARIANT(found->second == count);
        machine().large.erase(found);
        return ::munmap(address - xen::kPageSize, (count + 2) * xen::kPageSize);
    }
    for (uint32_t i = 0; i < kPages; ++i) {
        if (machine().mappings[i] != address) continue;
        INVARIANT(count == 1 && machine().uses[i] > 0);
        --machine().uses[i];
        return 0;
    }
    INVARIANT(!"what is unmapped was mapped");
    return -1;
}

int xengnttab_grant_copy(xengnttab_handle*, uint32_t count, xengnttab_grant_copy_segment_t* segments) {
    if (FakeXen::get().on_copy) FakeXen::get().on_copy();
    for (uint32_t i = 0; i < count; ++i) {
        segments[i].status = copy_one(segments[i]) ? int16_t{GNTST_okay} : int16_t{GNTST_bad_gntref};
    }
    return 0;
}

xenevtchn_handle* xenevtchn_open(xentoollog_logger*, unsigned) { return reinterpret_cast<xenevtchn_handle*>(&handle_of_events); }
int xenevtchn_close(xenevtchn_handle*) { return 0; }
int xenevtchn_fd(xenevtchn_handle*) { return machine().events; }
int xenevtchn_restrict(xenevtchn_handle*, domid_t) { return 0; }

// The guest offers ports 1 to 255; the lowest free number is ours.
xenevtchn_port_or_error_t xenevtchn_bind_interdomain(xenevtchn_handle*, uint32_t domid, evtchn_port_t remote) {
    if (domid != kGuest || remote == 0 || remote > 255) {
        errno = EINVAL;
        return -1;
    }
    evtchn_port_t port = 1;
    while (machine().ports.contains(port)) ++port;
    machine().ports.insert(port);
    return static_cast<xenevtchn_port_or_error_t>(port);
}
int xenevtchn_unbind(xenevtchn_handle*, evtchn_port_t port) {
    INVARIANT(machine().ports.erase(port) == 1);
    return 0;
}
xenevtchn_port_or_error_t xenevtchn_pending(xenevtchn_handle*) {
    errno = EAGAIN;
    return -1;
}
int xenevtchn_unmask(xenevtchn_handle*, evtchn_port_t port) {
    INVARIANT(machine().ports.contains(port));
    return 0;
}
int xenevtchn_notify(xenevtchn_handle*, evtchn_port_t port) {
    INVARIANT(machine().ports.contains(port));
    ++FakeXen::get().notified;
    return 0;
}
}
