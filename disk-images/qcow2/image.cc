// SPDX-License-Identifier: Apache-2.0
#include "disk-images/qcow2/image.h"

#include "runtime/log.h"

namespace ringback::image::qcow2 {

void Qcow2Image::submit(std::span<Io*> batch) {
    INVARIANT(closing_ == nullptr);
    for (Io* io : batch) {
        INVARIANT((io->offset | io->length) % kSectorSize == 0);
        INVARIANT(io->length <= geometry_.bytes && io->offset <= geometry_.bytes - io->length);
        ++in_flight_;
        held_.push(*io);
    }
    start_held();
}

void Qcow2Image::start_held() {
    while (!held_.empty() && free_operations_ != nullptr) {
        Operation& operation = *std::exchange(free_operations_, free_operations_->next);
        operation.io = &held_.pop();
        operation.buffer = operation.io->buffer;
        serve(operation);
    }
}

Detached Qcow2Image::serve(Operation& operation) {
    Io& io = *operation.io;
    int32_t result = 0;
    if (io.op != Op::read && (corrupt_ || sync_failed())) {
        result = -EIO;
    } else if (io.op != Op::read && io.op != Op::flush && !writable_) {
        result = io.op == Op::discard ? -EOPNOTSUPP : -EROFS;
    } else if (io.op == Op::flush) {
        result = co_await flush();
    } else if (io.op == Op::read) {
        Cursor cursor(io.vectors);
        result = co_await read(operation, cursor, io.offset, io.length, true);
    } else if (io.op == Op::write) {
        Cursor cursor(io.vectors);
        result = co_await write(operation, cursor, io.offset, io.length);
    } else if (io.op == Op::discard && !geometry_.discard) {
        result = -EOPNOTSUPP;
    } else {
        result = co_await drop(operation, io.offset, io.length, io.op == Op::zero);
    }
    if (io.op != Op::read && sync_failed()) result = -EIO;
    operation.next = std::exchange(free_operations_, &operation);
    io.scratch[0] = static_cast<uint64_t>(static_cast<uint32_t>(-result));
    finished_.push(io);
    reactor_.schedule(finisher_);
}

// Everything is answered from here: a caller may submit, close or destroy in his answer, and no operation is
// under way on this stack.
void Qcow2Image::answer_finished() {
    start_held();
    IoList done = finished_.take();
    while (!done.empty()) {
        Io& io = done.pop();
        --in_flight_;
        io.done(io, -static_cast<int32_t>(io.scratch[0]));
    }
}

// What was answered is in the file already, but for tables that could not be written; then the file goes to
// the disk.
Co Qcow2Image::flush() {
    if (!writable_) co_return 0;
    int32_t result = co_await cache_->commit_leftovers();
    if (result == 0 && l1_unwritten_count_ > 0) {
        co_await tables_.lock();
        result = co_await write_l1_leftovers();
        tables_.unlock();
    }
    if (result == 0 && data_file_) result = co_await data_file_->sync();
    if (result == 0) result = co_await file_->sync();
    co_return result;
}

int32_t Qcow2Image::corrupt(const char* what, uint64_t where) {
    if (!corrupt_) {
        log::error("{}: the image is damaged: {} {:#x}; no more writes. Run: vdisk check", file_->name(),
                   what, where);
    }
    corrupt_ = true;
    return -EIO;
}

Qcow2Image::BackingRead::BackingRead(Qcow2Image& to, uint64_t at, uint64_t bytes, std::span<iovec> where,
                                     uint16_t registered)
    : image(to) {
    op = Op::read;
    offset = at;
    length = bytes;
    vectors = where;
    if (where.size() == 1) buffer = registered;
    done = [](Io& self, int32_t answer) noexcept {
        auto& mine = static_cast<BackingRead&>(self);
        mine.result = answer;
        mine.waiter.resume();
    };
}

void Qcow2Image::BackingRead::await_suspend(std::coroutine_handle<> self) noexcept {
    waiter = self;
    image.backing_batch_.push_back(this);
    image.reactor_.schedule(image.backing_submitter_);
}

}  // namespace ringback::image::qcow2
