// SPDX-License-Identifier: Apache-2.0
//
// Decompressor: one compressed cluster to one cluster. Bombs do no harm: what comes out is bounded by the
// cluster, and memory is taken once, when it is made.
//
// zlib: a raw deflate stream. zstd: one or more frames, without a dictionary. What follows the data up to the
// end of its last sector is ignored; data that gives less than a cluster is an error.
//
// Thread: one.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "disk-images/qcow2/header.h"

namespace ringback::image::qcow2 {

class Decompressor {
  public:
    explicit Decompressor(Compression method);
    ~Decompressor();
    Decompressor(const Decompressor&) = delete;
    Decompressor& operator=(const Decompressor&) = delete;

    // Fills `to`, or -EIO.
    [[nodiscard]] int32_t run(std::span<const std::byte> from, std::span<std::byte> to);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace ringback::image::qcow2
