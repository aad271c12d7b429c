// SPDX-License-Identifier: Apache-2.0
#include "hypervisor/grants.h"

#include <sys/mman.h>
extern "C" {
#include <xentoollog.h>
}

#include <array>
#include <utility>

namespace ringback::xen {

GrantMapping::GrantMapping(GrantMapping&& other) noexcept
    : handle_(other.handle_), address_(std::exchange(other.address_, nullptr)), pages_(other.pages_) {}

GrantMapping& GrantMapping::operator=(GrantMapping&& other) noexcept {
    if (this != &other) {
        unmap();
        handle_ = other.handle_;
        address_ = std::exchange(other.address_, nullptr);
        pages_ = other.pages_;
    }
    return *this;
}

void GrantMapping::unmap() {
    if (address_ == nullptr) return;
    INVARIANT(xengnttab_unmap(handle_, address_, static_cast<uint32_t>(pages_)) == 0);
    address_ = nullptr;
}

namespace {

// The library writes a line for every grant it cannot map or copy, by default to standard error. What it would say of a
// bad grant is in the result, and how often it would say so is up to the guest.
void say_nothing(xentoollog_logger*, xentoollog_level, int, const char*, const char*, va_list) {}
xentoollog_logger silent{say_nothing, nullptr, nullptr};

}  // namespace

Result<GrantTable> GrantTable::open() {
    xengnttab_handle* handle = xengnttab_open(&silent, 0);
    if (handle == nullptr) return os_error("open the grant device");
    return GrantTable(handle);
}

GrantTable::GrantTable(GrantTable&& other) noexcept
    : handle_(std::exchange(other.handle_, nullptr)), counters_(other.counters_) {}

GrantTable& GrantTable::operator=(GrantTable&& other) noexcept {
    std::swap(handle_, other.handle_);
    counters_ = other.counters_;
    return *this;
}

GrantTable::~GrantTable() {
    if (handle_ != nullptr) xengnttab_close(handle_);
}

Result<GrantMapping> GrantTable::map(Domid domid, std::span<const GrantRef> refs, bool writable) {
    constexpr size_t kMaxRefs = 4096;
    std::array<uint32_t, kMaxRefs> list{};
    if (refs.empty() || refs.size() > kMaxRefs) return os_error(EINVAL, "map grants");
    std::copy(refs.begin(), refs.end(), list.begin());
    const int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    const auto count = static_cast<uint32_t>(refs.size());
    void* address = xengnttab_map_domain_grant_refs(handle_, count, domid, list.data(), protection);
    if (address == nullptr) {
        counters_.failed += count;
        return os_error("map " + std::to_string(count) + " grants of domain " + std::to_string(domid) +
                        ", the first " + std::to_string(refs[0]));
    }
    counters_.maps += count;
    return GrantMapping(handle_, static_cast<std::byte*>(address), count);
}

std::byte* GrantTable::map_page(Domid domid, GrantRef ref, bool writable) {
    const int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void* address = xengnttab_map_grant_ref(handle_, domid, ref, protection);
    ++(address != nullptr ? counters_.maps : counters_.failed);
    return static_cast<std::byte*>(address);
}

void GrantTable::unmap_page(std::byte* page) {
    INVARIANT(xengnttab_unmap(handle_, page, 1) == 0);
    ++counters_.unmaps;
}

bool GrantTable::copy(std::span<CopySegment> segments) {
    if (segments.empty()) return true;
    ++counters_.copy_calls;
    counters_.copied_segments += segments.size();
    return xengnttab_grant_copy(handle_, static_cast<uint32_t>(segments.size()), segments.data()) == 0;
}

}  // namespace ringback::xen
