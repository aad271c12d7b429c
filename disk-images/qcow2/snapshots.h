// SPDX-License-Identifier: Apache-2.0
//
// Internal snapshots: the table of them, and what is done with them while no guest has the image.
//
// Each of create, apply and remove is one step as far as the file is concerned (change.h).
//
// Source: QEMU's docs/interop/qcow2.txt, "Snapshots".
//
// Thread: any. Blocks. The caller holds the image's lock.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "disk-images/qcow2/blocking_file.h"
#include "disk-images/qcow2/header.h"

namespace ringback::image::qcow2 {

struct Snapshot {
    std::string id;
    std::string name;
    uint64_t l1_offset = 0;
    uint32_t l1_entries = 0;
    uint32_t seconds = 0;  // since 1970
    uint32_t nanoseconds = 0;
    uint64_t vm_clock = 0;
    uint64_t vm_state_bytes = 0;  // a machine's memory, which QEMU may keep behind the disk
    uint64_t disk_bytes = 0;      // 0: the table does not say
    std::vector<std::byte> extra;  // as it stands, with the two above in it
};

[[nodiscard]] Result<std::vector<Snapshot>> read_snapshots(BlockingFile& file, const Header& header);
[[nodiscard]] std::vector<std::byte> encode_snapshots(const std::vector<Snapshot>& list);
// By name, or by id. Where several have one name: by id only.
[[nodiscard]] Result<size_t> find_snapshot(const std::vector<Snapshot>& list, const std::string& word, const std::string& file);

// `fd` is what `file` is on. EUCLEAN: the image is damaged, and stays as it is.
[[nodiscard]] Result<Snapshot> create_snapshot(BlockingFile& file, int fd, const std::string& name, uint64_t now_ns);
// The disk reads as it did then, its size included. What it holds now is gone.
[[nodiscard]] Result<Snapshot> apply_snapshot(BlockingFile& file, int fd, const std::string& word);
[[nodiscard]] Result<Snapshot> remove_snapshot(BlockingFile& file, int fd, const std::string& word);

}  // namespace ringback::image::qcow2
