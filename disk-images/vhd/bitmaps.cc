// SPDX-License-Identifier: Apache-2.0
#include "disk-images/vhd/bitmaps.h"

#include <algorithm>
#include <cstring>

namespace ringback::image::vhd {

namespace {

constexpr size_t kMemory = 4U << 20;
constexpr size_t kFewest = 4;
constexpr size_t kMost = 256;

std::byte bit_of(uint32_t sector) { return std::byte{0x80} >> (sector % 8); }

}  // namespace

Bitmaps::Bitmaps(RawImage& file, uint32_t bitmap_bytes, uint32_t block_bytes, uint64_t disk_bytes)
    : file_(file),
      bytes_(bitmap_bytes),
      block_bytes_(block_bytes),
      disk_bytes_(disk_bytes),
      limit_(std::clamp(kMemory / 2 / bitmap_bytes, kFewest, kMost)) {}

Bitmaps::~Bitmaps() {
    for (const auto& entry : entries_) {
        INVARIANT(entry->state == Entry::State::idle || entry->state == Entry::State::empty);
    }
}

Bitmaps::Entry* Bitmaps::get(uint32_t block, uint32_t sector, Io& io) {
    Entry* victim = nullptr;
    for (const auto& entry : entries_) {
        if (entry->state == Entry::State::empty) {
            victim = entry.get();
            continue;
        }
        if (entry->block == block && entry->sector != sector && entry->state == Entry::State::idle) {
            victim = entry.get();  // the block has been given another place
            victim->state = Entry::State::empty;
            continue;
        }
        if (entry->block == block) {
            if (entry->state == Entry::State::loading) {
                entry->waiting.push(io);
                return nullptr;
            }
            entry->last_used = ++clock_;
            return entry.get();
        }
        const bool better = victim == nullptr || (victim->state != Entry::State::empty && entry->last_used < victim->last_used);
        if (entry->state == Entry::State::idle && better) victim = entry.get();
    }
    if ((victim == nullptr || victim->state != Entry::State::empty) && entries_.size() < limit_) {
        auto made = std::make_unique<Entry>();
        made->memory.reset(static_cast<std::byte*>(std::aligned_alloc(4096, (size_t{2} * bytes_ + 4095) / 4096 * 4096)));
        if (made->memory) {
            made->owner = this;
            made->known = made->memory.get();
            made->next = made->memory.get() + bytes_;
            made->io.entry = made.get();
            victim = made.get();
            entries_.push_back(std::move(made));
        }
    }
    if (victim == nullptr) {
        waiting_.push(io);
        return nullptr;
    }
    victim->block = block;
    victim->sector = sector;
    victim->last_used = ++clock_;
    victim->waiting.push(io);
    load(*victim);
    return nullptr;
}

void Bitmaps::load(Entry& entry) {
    entry.state = Entry::State::loading;
    entry.io.set(Op::read, uint64_t{entry.sector} * 512, entry.known, bytes_);
    entry.io.done = [](Io& io, int32_t result) noexcept {
        Entry& loaded = *static_cast<Entry::Transfer&>(io).entry;
        loaded.owner->on_loaded(loaded, result);
    };
    Io* one = &entry.io;
    file_.submit({&one, 1});
}

void Bitmaps::on_loaded(Entry& entry, int32_t result) {
    entry.state = result == 0 ? Entry::State::idle : Entry::State::empty;
    resume_all(entry.waiting.take(), result);
    became_idle();
}

void Bitmaps::became_idle() { resume_all(waiting_.take(), 0); }

bool Bitmaps::complete(const Entry& entry) const {
    const uint64_t begin = uint64_t{entry.block} * block_bytes_;
    const auto sectors = static_cast<uint32_t>(std::min<uint64_t>(block_bytes_, disk_bytes_ - begin) / 512);
    return test(entry, 0) && run(entry, 0, sectors) == sectors;
}

bool Bitmaps::test(const std::byte* bitmap, uint32_t sector) {
    return (bitmap[sector / 8] & bit_of(sector)) != std::byte{0};
}
bool Bitmaps::test(const Entry& entry, uint32_t sector) { return test(entry.known, sector); }

uint32_t Bitmaps::run(const std::byte* bitmap, uint32_t first, uint32_t limit) {
    const bool value = test(bitmap, first);
    const std::byte whole = value ? std::byte{0xff} : std::byte{0};
    uint32_t length = 1;
    while (length < limit) {
        const uint32_t at = first + length;
        if (at % 8 == 0 && limit - length >= 8 && bitmap[at / 8] == whole) {
            length += 8;
        } else if (test(bitmap, at) == value) {
            ++length;
        } else {
            break;
        }
    }
    return length;
}
uint32_t Bitmaps::run(const Entry& entry, uint32_t first, uint32_t limit) { return run(entry.known, first, limit); }

void Bitmaps::mark(Entry& entry, Io& io) {
    entry.to_mark.push(io);
    if (entry.state == Entry::State::idle) write(entry);
}

void Bitmaps::write(Entry& entry) {
    entry.state = Entry::State::writing;
    std::memcpy(entry.next, entry.known, bytes_);
    while (!entry.to_mark.empty()) {
        Io& io = entry.to_mark.pop();
        const Walk& at = walk(io);
        const auto first = static_cast<uint32_t>((io.offset + at.done) % block_bytes_ / 512);
        for (uint32_t sector = first; sector < first + at.length / 512; ++sector) entry.next[sector / 8] |= bit_of(sector);
        entry.marking.push(io);
    }
    entry.io.set(Op::write, uint64_t{entry.sector} * 512, entry.next, bytes_);
    entry.io.done = [](Io& own, int32_t result) noexcept {
        Entry& written = *static_cast<Entry::Transfer&>(own).entry;
        written.owner->on_written(written, result);
    };
    Io* one = &entry.io;
    file_.submit({&one, 1});
}

void Bitmaps::on_written(Entry& entry, int32_t result) {
    entry.state = Entry::State::idle;
    if (result == 0) std::memcpy(entry.known, entry.next, bytes_);
    IoList marked = entry.marking.take();
    if (!entry.to_mark.empty()) write(entry);
    resume_all(marked, result);
    became_idle();
}

bool Bitmaps::forget(uint32_t block) {
    for (const auto& entry : entries_) {
        if (entry->state == Entry::State::empty || entry->block != block) continue;
        if (entry->state != Entry::State::idle) return false;
        entry->state = Entry::State::empty;
    }
    return true;
}

}  // namespace ringback::image::vhd
