// SPDX-License-Identifier: Apache-2.0
#include "bridge/vhost/ring_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace ringback::bridge::vhost {

namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW;

void prepare(Ring& ring, size_t pair, size_t offset, bool device_writes) {
    for (uint16_t i = 0; i < kSlots; ++i) {
        ring.descriptors[i] = {.address = RingMemory::address_of(pair, offset + offsetof(Ring, buffers) + i * size_t{kBufferBytes}),
                               .length = kBufferBytes,
                               .flags = device_writes ? kDeviceWrites : uint16_t{0},
                               .next = static_cast<uint16_t>((i + 1) % kSlots)};
        ring.available.ring[i] = i;
    }
    if (device_writes) ring.available.index = kSlots;
    else ring.available.flags = kNoInterrupt;
}

}  // namespace

Result<RingMemory> RingMemory::create(size_t pairs) {
    UniqueFd file(::memfd_create("ringback-vhost", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!file) return os_error("make memory for the rings of a vhost port");
    const size_t bytes = pairs * sizeof(RingPair);
    if (::ftruncate(file.get(), static_cast<off_t>(bytes)) != 0 || ::fcntl(file.get(), F_ADD_SEALS, kSeals | F_SEAL_SEAL) != 0) {
        return os_error("size the memory for the rings of a vhost port");
    }
    RingMemory memory = TRY(map(std::move(file), pairs));
    for (size_t i = 0; i < pairs; ++i) {
        prepare(memory.pair(i).to_driver, i, offsetof(RingPair, to_driver), true);
        prepare(memory.pair(i).to_device, i, offsetof(RingPair, to_device), false);
    }
    return memory;
}

Result<RingMemory> RingMemory::map(UniqueFd file, size_t pairs) {
    const size_t bytes = pairs * sizeof(RingPair);
    struct stat status {};
    const int seals = ::fcntl(file.get(), F_GET_SEALS);
    if (seals < 0 || (seals & kSeals) != kSeals || ::fstat(file.get(), &status) != 0 || status.st_size != static_cast<off_t>(bytes)) {
        return os_error(EINVAL, "map the rings of a vhost port");
    }
    void* mapped = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    if (mapped == MAP_FAILED) return os_error("map the rings of a vhost port");
    return RingMemory(std::move(file), static_cast<RingPair*>(mapped), pairs);
}

RingMemory::RingMemory(RingMemory&& other) noexcept
    : file_(std::move(other.file_)), pairs_(std::exchange(other.pairs_, nullptr)), count_(other.count_) {}

RingMemory::~RingMemory() {
    if (pairs_ != nullptr) ::munmap(pairs_, bytes());
}

}  // namespace ringback::bridge::vhost
