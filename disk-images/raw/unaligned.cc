// SPDX-License-Identifier: Apache-2.0
#include "disk-images/raw/unaligned.h"

#include <algorithm>
#include <cstring>

namespace ringback::image {

namespace {
constexpr size_t kBuffer = 65536;
}

Result<std::unique_ptr<Unaligned>> Unaligned::create(uint32_t unit, uint32_t memory_align) {
    const size_t size = std::max<size_t>(kBuffer, size_t{2} * unit);
    const size_t align = std::max<size_t>({unit, memory_align, 4096});
    std::unique_ptr<std::byte[], Free> buffer(static_cast<std::byte*>(std::aligned_alloc(align, size)));
    if (!buffer) return os_error(ENOMEM, "allocate a bounce buffer");
    return std::unique_ptr<Unaligned>(new Unaligned(unit, memory_align, std::move(buffer), size));
}

Unaligned::Unaligned(uint32_t unit, uint32_t memory_align, std::unique_ptr<std::byte[], Free> buffer,
                     size_t size)
    : unit_(unit), memory_align_(memory_align), buffer_(std::move(buffer)), size_(size) {}

bool Unaligned::wants(const Io& io) const {
    if (io.op != Op::read && io.op != Op::write) return false;
    if ((io.offset | io.length) % unit_ != 0) return true;
    return std::any_of(io.vectors.begin(), io.vectors.end(), [this](const iovec& vector) {
        return vector.iov_len % unit_ != 0 ||
               reinterpret_cast<uintptr_t>(vector.iov_base) % memory_align_ != 0;
    });
}

Io& Unaligned::begin(Io& io) {
    INVARIANT(!busy() && io.length > 0);
    outer_ = &io;
    done_ = 0;
    return start_piece();
}

Io& Unaligned::start_piece() {
    const uint64_t from = outer_->offset + done_;
    const uint64_t to = outer_->offset + outer_->length;
    blocks_ = from / unit_ * unit_;
    blocks_length_ =
        static_cast<size_t>(std::min<uint64_t>((to + unit_ - 1) / unit_ * unit_ - blocks_, size_));
    const uint64_t end = std::min(to, blocks_ + blocks_length_);
    piece_ = static_cast<size_t>(end - from);
    if (outer_->op == Op::read) {
        step_ = Step::read;
        return move_blocks(Op::read);
    }
    if (piece_ < blocks_length_) {
        step_ = Step::read_before_write;
        return move_blocks(Op::read);
    }
    copy(true);
    step_ = Step::write;
    return move_blocks(Op::write);
}

Io* Unaligned::next() {
    if (step_ == Step::read_before_write) {
        copy(true);
        step_ = Step::write;
        return &move_blocks(Op::write);
    }
    if (step_ == Step::read) copy(false);
    done_ += piece_;
    return done_ < outer_->length ? &start_piece() : nullptr;
}

Io& Unaligned::end() {
    INVARIANT(busy());
    return *std::exchange(outer_, nullptr);
}

Io& Unaligned::move_blocks(Op op) {
    vector_[0] = {buffer_.get(), blocks_length_};
    inner_.op = op;
    inner_.offset = blocks_;
    inner_.length = blocks_length_;
    inner_.vectors = vector_;
    return inner_;
}

void Unaligned::copy(bool to_buffer) {
    std::byte* mine = buffer_.get() + (outer_->offset + done_ - blocks_);
    uint64_t skip = done_;
    size_t left = piece_;
    for (const iovec& vector : outer_->vectors) {
        if (left == 0) break;
        if (skip >= vector.iov_len) {
            skip -= vector.iov_len;
            continue;
        }
        std::byte* theirs = static_cast<std::byte*>(vector.iov_base) + skip;
        const size_t count = std::min(left, static_cast<size_t>(vector.iov_len - skip));
        skip = 0;
        if (to_buffer) {
            std::memcpy(mine, theirs, count);
        } else {
            std::memcpy(theirs, mine, count);
        }
        mine += count;
        left -= count;
    }
    INVARIANT(left == 0);
}

}  // namespace ringback::image
