// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "disk-images/vdisk/copy.h"
#include "disk-images/vdisk/disk_io.h"

namespace ringback::vdisk {

using image::Extent;
using image::Io;
using image::Op;

namespace {

constexpr size_t kBuffer = 1U << 19;
constexpr size_t kSlots = 8;
constexpr uint64_t kWindowData = uint64_t{128} * kBuffer;
constexpr size_t kWindowParts = 2048;

struct Part {
    uint64_t offset;
    uint64_t bytes;
    bool first;   // the first disk has data there
    bool second;
};

// Compares two disks, or one with nothing but zeros.
class Comparer {
  public:
    Comparer(Disk& first, Disk* second, Reactor& reactor, uint64_t from, uint64_t end, const Progress& progress)
        : disks_{&first, second}, cursors_{Cursor(&first), Cursor(second)}, reactor_(reactor), from_(from), end_(end), progress_(progress) {}

    Result<std::optional<uint64_t>> run() {
        for (Slot& slot : slots_) {
            for (Side& side : slot.sides) {
                side.slot = &slot;
                side.memory = make_buffer(kBuffer);
                if (!side.memory) return os_error(ENOMEM, "allocate buffers");
            }
            slot.owner = this;
        }
        for (uint64_t at = from_; at < end_ && !found_;) {
            if (progress_) progress_(at - from_, end_ - from_);
            at = TRY(plan(at));
            for (Slot& slot : slots_) start(slot);
            while (busy_ > 0) reactor_.turn(reactor_.in_flight() > 0);
            if (result_ != 0) return os_error(-result_, fmt::format("read {} at {}", failed_->spec().path, failed_at_));
        }
        if (progress_) progress_(end_ - from_, end_ - from_);
        return found_;
    }

  private:
    struct Slot;
    struct Side : Io {
        Slot* slot = nullptr;
        Buffer memory;
        iovec vector{};
        bool has = false;
    };
    struct Slot {
        Comparer* owner = nullptr;
        std::array<Side, 2> sides;
        uint64_t at = 0;
        size_t bytes = 0;
        int waiting = 0;
    };

    Result<Extent> ask(size_t which, uint64_t at) {
        const Disk* disk = disks_[which];
        if (disk == nullptr || at >= disk->bytes()) return Extent{.kind = Extent::Kind::zero, .length = end_ - at};
        return cursors_[which].at(at);
    }
    Result<uint64_t> plan(uint64_t at) {
        parts_.clear();
        next_ = 0;
        uint64_t data = 0;
        while (at < end_ && parts_.size() < kWindowParts && data < kWindowData) {
            const Extent first = TRY(ask(0, at));
            const Extent second = TRY(ask(1, at));
            const bool has_first = first.kind == Extent::Kind::data;
            const bool has_second = second.kind == Extent::Kind::data;
            uint64_t bytes = std::min({first.length, second.length, end_ - at});
            if (has_first || has_second) {
                bytes = std::min(bytes, kWindowData - data);
                data += bytes;
                parts_.push_back({at, bytes, has_first, has_second});
            }
            at += bytes;
        }
        return at;
    }
    void start(Slot& slot) {
        if (next_ == parts_.size() || result_ != 0 || (found_ && parts_[next_].offset > *found_)) return;
        Part& part = parts_[next_];
        slot.at = part.offset;
        slot.bytes = static_cast<size_t>(std::min<uint64_t>(part.bytes, kBuffer));
        slot.sides[0].has = part.first;
        slot.sides[1].has = part.second;
        part.offset += slot.bytes;
        part.bytes -= slot.bytes;
        if (part.bytes == 0) ++next_;
        ++busy_;
        slot.waiting = (slot.sides[0].has ? 1 : 0) + (slot.sides[1].has ? 1 : 0);
        for (size_t i = 0; i < slot.sides.size(); ++i) {
            Side& side = slot.sides[i];
            if (!side.has) continue;
            side.done = [](Io& io, int32_t result) noexcept {
                auto& self = static_cast<Side&>(io);
                self.slot->owner->on_read(self, result);
            };
            submit(*disks_[i], side, Op::read, slot.at, slot.bytes, side.vector, side.memory.get());
        }
    }
    void on_read(Side& side, int32_t result) {
        Slot& slot = *side.slot;
        if (result != 0 && result_ == 0) {
            result_ = result;
            failed_ = disks_[&side == slot.sides.data() ? 0 : 1];
            failed_at_ = side.offset;
        }
        if (--slot.waiting > 0) return;
        if (result_ == 0) look(slot);
        --busy_;
        start(slot);
    }
    void look(const Slot& slot) {
        const std::byte* first = slot.sides[0].memory.get();
        const std::byte* second = slot.sides[1].memory.get();
        size_t at = 0;
        if (slot.sides[0].has && slot.sides[1].has) {
            if (std::memcmp(first, second, slot.bytes) == 0) return;
            while (first[at] == second[at]) ++at;
        } else {
            const std::byte* only = slot.sides[0].has ? first : second;
            if (all_zero(only, slot.bytes)) return;
            while (only[at] == std::byte{0}) ++at;
        }
        if (!found_ || slot.at + at < *found_) found_ = slot.at + at;
    }

    std::array<Disk*, 2> disks_;
    std::array<Cursor, 2> cursors_;
    Reactor& reactor_;
    const uint64_t from_;
    const uint64_t end_;
    const Progress& progress_;
    std::array<Slot, kSlots> slots_;
    std::vector<Part> parts_;
    size_t next_ = 0;
    size_t busy_ = 0;
    std::optional<uint64_t> found_;
    int32_t result_ = 0;
    Disk* failed_ = nullptr;
    uint64_t failed_at_ = 0;
};

}  // namespace

Result<std::optional<uint64_t>> first_difference(Disk& a, Disk& b, Reactor& reactor, uint64_t bytes,
                                                 const Progress& progress) {
    return Comparer(a, &b, reactor, 0, bytes, progress).run();
}

Result<std::optional<uint64_t>> first_nonzero(Disk& disk, Reactor& reactor, uint64_t offset, const Progress& progress) {
    return Comparer(disk, nullptr, reactor, offset, disk.bytes(), progress).run();
}

}  // namespace ringback::vdisk
