// SPDX-License-Identifier: Apache-2.0
//
// BlockingFile: reads and writes of any length at any offset, one after the other, on a descriptor that may
// be O_DIRECT.
//
// For what is done before an image is served or without serving it: opening, creating, checking, repairing.
// Everything goes in whole blocks of 4096 bytes through an aligned buffer, so direct I/O takes it on any
// storage. What lies past the end of the file reads as zeros, as it does for everybody who reads this format;
// a write may leave the file up to a block longer than asked.
//
// Thread: any, one at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "runtime/result.h"

namespace ringback::image::qcow2 {

class BlockingFile {
  public:
    // `fd` is borrowed; `name` is for messages.
    BlockingFile(int fd, std::string name);

    [[nodiscard]] Result<void> read(uint64_t offset, std::span<std::byte> to);
    [[nodiscard]] Result<void> write(uint64_t offset, std::span<const std::byte> from);
    [[nodiscard]] Result<void> sync();
    // What the file has: bytes of a file, or of a device.
    [[nodiscard]] Result<uint64_t> size() const;
    [[nodiscard]] const std::string& name() const { return name_; }

  private:
    struct Free {
        void operator()(std::byte* memory) const { std::free(memory); }
    };
    static constexpr size_t kBlock = 4096;
    static constexpr size_t kBuffer = size_t{64} * kBlock;
    // Into the buffer; the rest of `bytes` becomes zeros at the end of the file.
    [[nodiscard]] Result<void> read_blocks(uint64_t offset, size_t bytes);
    [[nodiscard]] Result<void> write_blocks(uint64_t offset, size_t bytes);

    int fd_;
    std::string name_;
    std::unique_ptr<std::byte[], Free> buffer_;
};

}  // namespace ringback::image::qcow2
