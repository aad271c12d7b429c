// SPDX-License-Identifier: Apache-2.0
#include "disk-images/qcow2/decompress.h"

#include <zlib.h>
#include <zstd.h>

#include <new>

namespace ringback::image::qcow2 {

namespace {

constexpr int kRawDeflate = -15;  // writers use windows of 4 KiB; any window is read

// inflate() takes its window when it first needs it; here it gets memory that was put aside.
struct Arena {
    static constexpr size_t kBytes = 64 * 1024;
    alignas(16) std::byte memory[kBytes];
    size_t used = 0;
    static void* take(void* self, unsigned count, unsigned size) {
        auto& arena = *static_cast<Arena*>(self);
        const size_t bytes = (size_t{count} * size + 15) / 16 * 16;
        if (bytes > kBytes - arena.used) return nullptr;
        void* taken = arena.memory + arena.used;
        arena.used += bytes;
        return taken;
    }
    static void give(void*, void*) {}
};

}  // namespace

struct Decompressor::State {
    Compression method;
    Arena arena;
    z_stream zlib{};
    ZSTD_DCtx* zstd = nullptr;
};

Decompressor::Decompressor(Compression method) : state_(std::make_unique<State>()) {
    state_->method = method;
    if (method == Compression::zlib) {
        state_->zlib.zalloc = Arena::take;
        state_->zlib.zfree = Arena::give;
        state_->zlib.opaque = &state_->arena;
        if (inflateInit2(&state_->zlib, kRawDeflate) != Z_OK) throw std::bad_alloc();
    } else {
        state_->zstd = ZSTD_createDCtx();
        if (state_->zstd == nullptr) throw std::bad_alloc();
    }
}

Decompressor::~Decompressor() {
    if (state_->method == Compression::zlib) {
        inflateEnd(&state_->zlib);
    } else {
        ZSTD_freeDCtx(state_->zstd);
    }
}

int32_t Decompressor::run(std::span<const std::byte> from, std::span<std::byte> to) {
    if (state_->method == Compression::zlib) {
        z_stream& stream = state_->zlib;
        if (inflateReset(&stream) != Z_OK) return -EIO;
        stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(from.data()));
        stream.avail_in = static_cast<uInt>(from.size());
        stream.next_out = reinterpret_cast<Bytef*>(to.data());
        stream.avail_out = static_cast<uInt>(to.size());
        const int result = inflate(&stream, Z_FINISH);
        // Z_BUF_ERROR: there was more than a cluster, as some writers leave it.
        return (result == Z_STREAM_END || result == Z_BUF_ERROR) && stream.avail_out == 0 ? 0 : -EIO;
    }
    while (!to.empty()) {
        const size_t frame = ZSTD_findFrameCompressedSize(from.data(), from.size());
        if (ZSTD_isError(frame) != 0 || frame == 0) return -EIO;
        const size_t made = ZSTD_decompressDCtx(state_->zstd, to.data(), to.size(), from.data(), frame);
        if (ZSTD_isError(made) != 0) return -EIO;
        from = from.subspan(frame);
        to = to.subspan(made);
    }
    return 0;
}

}  // namespace ringback::image::qcow2
