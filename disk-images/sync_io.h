// SPDX-License-Identifier: Apache-2.0
//
// Metadata at open and close: whole reads and writes that wait, through the page cache.
//
// An image's file is open for direct I/O, whose rules about sizes and memory would be in the way of a header of 512
// bytes. For as long as a SyncIo lives its description is switched to buffered I/O; the kernel keeps both views of a file
// coherent. Nothing else is in flight then: images do this before they serve and after they have drained.
//
// Thread: the owner of the image.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "runtime/result.h"

namespace ringback::image {

class SyncIo {
  public:
    // `fd` is borrowed; `name` is for messages.
    SyncIo(int fd, std::string name);
    ~SyncIo();
    SyncIo(const SyncIo&) = delete;
    SyncIo& operator=(const SyncIo&) = delete;

    [[nodiscard]] const std::string& name() const { return name_; }
    [[nodiscard]] Result<uint64_t> size() const;  // of a file or a block device
    // Of that range, what is no hole; all of it where holes cannot be told.
    [[nodiscard]] uint64_t data_bytes(uint64_t begin, uint64_t end) const;
    // EIO with the place when the file ends before the range does.
    [[nodiscard]] Result<void> read(uint64_t offset, std::span<std::byte> to) const;
    [[nodiscard]] Result<void> write(uint64_t offset, std::span<const std::byte> from) const;
    [[nodiscard]] Result<void> truncate(uint64_t bytes) const;
    [[nodiscard]] Result<void> sync() const;

  private:
    int fd_;
    std::string name_;
    int flags_;  // to be put back; -1: nothing was changed
};

}  // namespace ringback::image
