// SPDX-License-Identifier: Apache-2.0
//
// Partition tables and LVM labels, as `vdisk partitions` reads them from a raw disk. GPT's checksums are made right where the
// input says so.
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include <string>
#include <vector>

#include "disk-images/vdisk/partitions.h"
#include "image_target.h"

using namespace ringback;
using namespace ringback::fuzz;

namespace {

constexpr size_t kSector = 512;

template <typename T>
T get(std::span<const std::byte> data, size_t at) {
    T value;
    std::memcpy(&value, data.data() + at, sizeof value);
    return value;
}
void put_sum(std::span<std::byte> data, size_t at, uint32_t sum) { std::memcpy(data.data() + at, &sum, sizeof sum); }
uint32_t sum_of(std::span<const std::byte> data) {
    return static_cast<uint32_t>(::crc32(0, reinterpret_cast<const Bytef*>(data.data()), static_cast<uInt>(data.size())));
}

void repair(std::span<std::byte> disk, size_t at) {
    if (at + kSector > disk.size()) return;
    const auto header = disk.subspan(at, kSector);
    const uint64_t entries = get<uint64_t>(header, 72);
    const uint64_t bytes = uint64_t{get<uint32_t>(header, 80)} * get<uint32_t>(header, 84);
    if (entries <= disk.size() / kSector && bytes <= disk.size() - entries * kSector) {
        put_sum(header, 88, sum_of(disk.subspan(entries * kSector, bytes)));
    }
    put_sum(header, 16, 0);
    put_sum(header, 16, sum_of(header.first(std::min<size_t>(get<uint32_t>(header, 12), kSector))));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Input input(data, size);
    const uint8_t flags = input.byte();
    std::vector<std::byte> content((input.left() + kSector - 1) / kSector * kSector);
    input.fill(content);
    if (content.empty()) return 0;
    if ((flags & 1) != 0) {
        repair(content, kSector);
        repair(content, content.size() - kSector);
    }
    const uint64_t hole = (flags & 2) != 0 ? uint64_t{1} << 20 : 0;
    const UniqueFd file = memory_file(content, content.size() + hole);
    const MemoryLimit limit((size_t{4} << 20) + 16 * content.size());
    auto disk = vdisk::Disk::open({"raw", "/proc/self/fd/" + std::to_string(file.get())}, false, reactor());
    if (!disk) std::fprintf(stderr, "%s\n", disk.error().message.c_str());
    INVARIANT(disk.ok());
    const auto table = vdisk::read_partitions(disk.value());
    if (!table) return 0;
    for (const vdisk::Partition& partition : table.value().partitions) {
        INVARIANT(partition.bytes > 0 && partition.start <= disk->bytes() && partition.bytes <= disk->bytes() - partition.start);
    }
    return 0;
}
