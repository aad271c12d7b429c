// SPDX-License-Identifier: Apache-2.0
//
// What is on a disk: a partition table (MBR with logical partitions, GPT with its copy) and LVM physical volumes, read
// from the image itself, without mounting anything or asking a kernel to look at what a guest wrote.
//
// Sources: UEFI specification 2.10, chapter 5 (GPT, protective MBR); the layout of PC boot records as every system has
// it; LVM2's on-disk label and text metadata as its documentation and tools show them.
//
// Everything here is hostile input: numbers are checked against the disk, lists are bounded, names are cleaned.
//
// Thread: the disk's.
#pragma once

#include <string>
#include <vector>

#include "disk-images/vdisk/disk.h"

namespace ringback::vdisk {

struct Partition {
    unsigned number = 0;
    uint64_t start = 0;  // bytes
    uint64_t bytes = 0;
    std::string type;    // "0x83", or a GPT type's UUID
    std::string name;    // GPT
    bool bootable = false;
    std::string content;  // "LVM physical volume of group vg0", ""
};

struct PartitionTable {
    std::string kind;  // "gpt", "mbr", "none"
    std::string id;
    std::vector<Partition> partitions;
    std::vector<std::string> warnings;
    std::string content;  // of the whole disk, without a table
};

[[nodiscard]] Result<PartitionTable> read_partitions(Disk& disk);

}  // namespace ringback::vdisk
