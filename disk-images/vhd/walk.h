// SPDX-License-Identifier: Apache-2.0
//
// Walk: what a dynamic VHD keeps in an Io's scratch. A request is walked through block by block; one that crosses a
// boundary (rare: blocks have 2 MiB) does its parts one after the other, so that nothing has to be allocated.
//
// Thread: the owner of the image.
#pragma once

#include <new>
#include <type_traits>

#include "disk-images/image.h"

namespace ringback::image::vhd {

class DynamicImage;

// How far the part at `done` is.
enum class Stage : uint32_t {
    begin,
    data,         // on its way to or from the file; nothing is left to do afterwards
    data_marked,  // the same, but its sectors have to be marked in the block's bitmap afterwards
    written,      // the data is in the file; are its sectors marked?
    synced,       // the data is on stable storage: its sectors may be marked
    marking,      // the bitmap is on its way
};

struct Walk {
    DynamicImage* image = nullptr;
    uint64_t done = 0;    // bytes of the request
    uint32_t length = 0;  // bytes of the part under way
    int32_t result = 0;
    Stage stage = Stage::begin;
};
static_assert(sizeof(Walk) <= sizeof(Io::scratch) && std::is_trivially_destructible_v<Walk>);

inline Walk& begin_walk(Io& io, DynamicImage& image) { return *new (io.scratch.data()) Walk{.image = &image}; }
inline Walk& walk(Io& io) { return *std::launder(reinterpret_cast<Walk*>(io.scratch.data())); }

// Where walks go on that waited for something: into the image.
void resume(Io& io, int32_t result) noexcept;
inline void resume_all(IoList list, int32_t result) noexcept {
    while (!list.empty()) resume(list.pop(), result);
}

// One of the image's own transfers of metadata.
struct OwnIo : Io {
    iovec vector{};
    void set(Op what, uint64_t at, std::byte* memory, size_t bytes) {
        op = what;
        offset = at;
        length = bytes;
        vector = {memory, bytes};
        vectors = {&vector, bytes > 0 ? size_t{1} : size_t{0}};
    }
};

}  // namespace ringback::image::vhd
