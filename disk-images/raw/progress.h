// SPDX-License-Identifier: Apache-2.0
//
// What the raw image keeps in an Io's scratch while the request is its own.
#pragma once

#include <cstddef>
#include <new>
#include <type_traits>

#include "disk-images/image.h"

namespace ringback::image {

class RawImage;

struct Progress {
    RawImage* image = nullptr;
    uint64_t done = 0;     // bytes transferred
    uint32_t retries = 0;  // in a row, without progress
    int32_t result = 0;    // of a request that waits to be answered
};
static_assert(sizeof(Progress) <= sizeof(Io::scratch) && alignof(Progress) <= alignof(uint64_t));
static_assert(std::is_trivially_destructible_v<Progress>);

inline Progress& begin_progress(Io& io, RawImage& image) {
    return *new (io.scratch.data()) Progress{.image = &image};
}
inline Progress& progress(Io& io) {
    return *std::launder(reinterpret_cast<Progress*>(io.scratch.data()));
}

// The request a completion belongs to.
static_assert(std::is_standard_layout_v<Io>);
inline Io& io_of(Completion& completion) {
    return *reinterpret_cast<Io*>(reinterpret_cast<std::byte*>(&completion) - offsetof(Io, completion));
}

}  // namespace ringback::image
