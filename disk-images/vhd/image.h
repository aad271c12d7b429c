// SPDX-License-Identifier: Apache-2.0
//
// Opening a VHD for its disk, and what else is done with a VHD file as a whole.
//
// A fixed disk is its file without the footer, so its requests go to the raw image as they are. A dynamic or differencing
// one is dynamic.h. A differencing disk's parent is a VHD too; it is asked for by the name the child has for it (chain.h),
// and has to have the identity the child remembers.
//
// Thread: opening: the owner of the reactor. The rest: any, on files that nobody serves.
#pragma once

#include <memory>
#include <string>

#include "disk-images/chain.h"
#include "disk-images/vhd/table.h"

namespace ringback::image::vhd {

[[nodiscard]] Result<std::unique_ptr<Image>> open(const Chain& chain, File file, Opener& opener, Reactor& reactor,
                                                  const OpenOptions& options);

// Read-only, without its parent, whose sectors read as zeros: for tools that look at what is in this file.
[[nodiscard]] Result<std::unique_ptr<Image>> open_alone(File file, Reactor& reactor);

struct CreateOptions {
    uint64_t bytes = 0;
    Type type = Type::dynamic;
    uint32_t block_bytes = kDefaultBlock;
    // Round the size up to what cylinders, heads and sectors can say, and mean that (creator "vpc "): for programs of
    // Virtual PC's time. Otherwise the size is what was asked for.
    bool geometry_size = false;
    // Differencing: the parent's name as the child shall have it, and what the parent is.
    std::string parent{};
    Uuid parent_id{};
    uint32_t parent_timestamp = 0;
};
// On an empty, locked file. Returns the disk's size, which may be rounded.
[[nodiscard]] Result<uint64_t> create(const SyncIo& file, const CreateOptions& options);

// The disk becomes larger, or smaller as long as nothing that is in the file is cut off.
[[nodiscard]] Result<void> resize(const SyncIo& file, uint64_t bytes);

struct CheckReport {
    std::vector<std::string> errors;  // what a guest's data may depend on
    uint64_t leaked_bytes = 0;        // of the file, used by nothing
    uint32_t used_blocks = 0;
    uint32_t blocks = 0;
    bool repaired = false;
};
// Of this file, not its parents. Repairing (the file is open for writing) puts back a lost or damaged footer, takes
// entries out of the table that point outside the file or into another block, and gives back what is leaked.
[[nodiscard]] Result<CheckReport> check(const SyncIo& file, bool repair);

}  // namespace ringback::image::vhd
