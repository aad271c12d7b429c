// SPDX-License-Identifier: Apache-2.0
#include "disk-images/vdisk/copy.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "disk-images/vdisk/disk_io.h"

namespace ringback::vdisk {

using image::Extent;
using image::Io;
using image::Op;

namespace {

constexpr size_t kBuffer = 1U << 20;
constexpr size_t kSlots = 8;
constexpr uint64_t kWindowData = uint64_t{64} * kBuffer;
constexpr size_t kWindowParts = 2048;
constexpr size_t kHole = 4096;        // the unit that is looked at for zeros
constexpr size_t kShortHole = 16384;  // shorter ones are written with what is around them

struct Part {
    uint64_t offset;
    uint64_t bytes;
    bool has;  // data
};

struct Failure {
    int32_t result = 0;
    uint64_t offset = 0;
    const char* doing = "";
    const std::string* name = nullptr;
    void note(int32_t value, const char* what, const Disk& disk, uint64_t at) {
        if (result == 0) *this = {value, at, what, &disk.spec().path};
    }
    [[nodiscard]] Result<void> check() const {
        if (result == 0) return {};
        return os_error(-result, fmt::format("{} {} at {}", doing, *name, offset));
    }
};

class Copier {
  public:
    Copier(Disk& from, Disk& to, Reactor& reactor, const CopyJob& job, const Progress& progress)
        : from_(from), to_(to), reactor_(reactor), job_(job), progress_(progress), cursor_(&from) {}

    Result<CopyCounts> run() {
        for (Slot& slot : slots_) {
            slot.owner = this;
            slot.memory = make_buffer(kBuffer);
            if (!slot.memory) return os_error(ENOMEM, "allocate buffers");
        }
        for (uint64_t at = 0; at < job_.bytes;) {
            if (progress_) progress_(at, job_.bytes);
            at = TRY(plan(at));
            for (Slot& slot : slots_) start(slot);
            while (busy_ > 0) reactor_.turn(reactor_.in_flight() > 0);
            TRY(failure_.check());
        }
        if (progress_) progress_(job_.bytes, job_.bytes);
        return counts_;
    }

  private:
    struct Slot : Io {
        Copier* owner = nullptr;
        Buffer memory;
        iovec vector{};
        uint64_t at = 0;        // of the part, in the job
        size_t bytes = 0;       // read
        size_t moved = 0;       // of these: written, or on their way
        uint64_t zeros_at = 0;  // in the target: what is being written as zeros
        uint64_t zeros_left = 0;
    };

    // The parts of the next window; returns where it ends.
    Result<uint64_t> plan(uint64_t at) {
        parts_.clear();
        next_ = 0;
        uint64_t data = 0;
        while (at < job_.bytes && parts_.size() < kWindowParts && data < kWindowData) {
            Extent extent = TRY(cursor_.at(job_.from + at));
            extent.length = std::min(extent.length, job_.bytes - at);
            const bool has = extent.kind == Extent::Kind::data;
            if (has) {
                extent.length = std::min(extent.length, kWindowData - data);
                data += extent.length;
            }
            const bool wanted = !job_.only_here || extent.here;
            if (wanted && (has || !job_.target_is_zero)) parts_.push_back({at, extent.length, has});
            at += extent.length;
        }
        return at;
    }
    // The next part of the window, if there is one.
    void start(Slot& slot) {
        if (next_ == parts_.size() || failure_.result != 0) return;
        Part& part = parts_[next_];
        slot.at = part.offset;
        slot.bytes = slot.moved = 0;
        ++busy_;
        if (!part.has) {
            ++next_;
            return zero(slot, part.offset, part.bytes);
        }
        // To the target's next multiple, so that what follows is aligned.
        slot.bytes = static_cast<size_t>(std::min<uint64_t>(part.bytes, kBuffer - (job_.to + part.offset) % kBuffer));
        part.offset += slot.bytes;
        part.bytes -= slot.bytes;
        if (part.bytes == 0) ++next_;
        counts_.read += slot.bytes;
        slot.done = [](Io& io, int32_t result) noexcept {
            auto& self = static_cast<Slot&>(io);
            if (result != 0) self.owner->failure_.note(result, "read", self.owner->from_, io.offset);
            self.owner->go_on(self);
        };
        submit(from_, slot, Op::read, job_.from + slot.at, slot.bytes, slot.vector, slot.memory.get());
    }
    // What was read goes out run by run: data, zeros, data.
    void go_on(Slot& slot) {
        const std::byte* data = slot.memory.get();
        const auto unit = [&](size_t at) { return std::min(kHole, slot.bytes - at); };
        while (failure_.result == 0 && slot.moved < slot.bytes) {
            const size_t begin = slot.moved;
            size_t end = begin;
            while (end < slot.bytes && all_zero(data + end, unit(end))) end += unit(end);
            if (end > begin) {
                slot.moved = end;
                if (job_.target_is_zero) continue;
                return zero(slot, slot.at + begin, end - begin);
            }
            size_t hole = 0;
            while (end < slot.bytes && hole < kShortHole) {
                hole = all_zero(data + end, unit(end)) ? hole + unit(end) : 0;
                end += unit(end);
            }
            slot.moved = end - hole;
            return write(slot, job_.to + slot.at + begin, slot.moved - begin, slot.memory.get() + begin);
        }
        --busy_;
        start(slot);
    }
    void write(Slot& slot, uint64_t offset, size_t bytes, std::byte* memory) {
        counts_.written += bytes;
        slot.done = [](Io& io, int32_t result) noexcept {
            auto& self = static_cast<Slot&>(io);
            if (result != 0) self.owner->failure_.note(result, "write", self.owner->to_, io.offset);
            if (self.zeros_left > 0 && result == 0) return self.owner->write_zeros(self);
            self.owner->go_on(self);
        };
        submit(to_, slot, Op::write, offset, bytes, slot.vector, memory);
    }
    void zero(Slot& slot, uint64_t at, uint64_t bytes) {
        counts_.zeroed += bytes;
        slot.done = [](Io& io, int32_t result) noexcept {
            auto& self = static_cast<Slot&>(io);
            if (result == -EOPNOTSUPP) {  // storage that cannot by itself
                self.zeros_at = io.offset;
                self.zeros_left = io.length;
                return self.owner->write_zeros(self);
            }
            if (result != 0) self.owner->failure_.note(result, "zero", self.owner->to_, io.offset);
            self.owner->go_on(self);
        };
        submit(to_, slot, Op::zero, job_.to + at, bytes, slot.vector, nullptr);
    }
    void write_zeros(Slot& slot) {
        if (!zeros_) {
            zeros_ = make_buffer(kBuffer);
            if (zeros_) std::memset(zeros_.get(), 0, kBuffer);
        }
        if (!zeros_) {
            slot.zeros_left = 0;
            failure_.note(-ENOMEM, "zero", to_, slot.zeros_at);
            return go_on(slot);
        }
        const auto bytes = static_cast<size_t>(std::min<uint64_t>(slot.zeros_left, kBuffer));
        const uint64_t at = std::exchange(slot.zeros_at, slot.zeros_at + bytes);
        slot.zeros_left -= bytes;
        write(slot, at, bytes, zeros_.get());
    }

    Disk& from_;
    Disk& to_;
    Reactor& reactor_;
    const CopyJob job_;
    const Progress& progress_;
    Cursor cursor_;
    std::array<Slot, kSlots> slots_;
    Buffer zeros_;
    std::vector<Part> parts_;
    size_t next_ = 0;
    size_t busy_ = 0;
    CopyCounts counts_;
    Failure failure_;
};

}  // namespace

Result<CopyCounts> copy(Disk& from, Disk& to, Reactor& reactor, const CopyJob& job, const Progress& progress) {
    return Copier(from, to, reactor, job, progress).run();
}

bool all_zero(const std::byte* data, size_t bytes) {
    using Wide = uint64_t __attribute__((vector_size(32), may_alias, aligned(8)));
    const size_t step = sizeof(Wide) * 4;
    size_t at = 0;
    for (; at + step <= bytes; at += step) {
        const auto* wide = reinterpret_cast<const Wide*>(data + at);
        const Wide any = wide[0] | wide[1] | wide[2] | wide[3];
        if ((any[0] | any[1] | any[2] | any[3]) != 0) return false;
    }
    return std::all_of(data + at, data + bytes, [](std::byte b) { return b == std::byte{0}; });
}

}  // namespace ringback::vdisk
