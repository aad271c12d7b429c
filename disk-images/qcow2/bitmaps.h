// SPDX-License-Identifier: Apache-2.0
//
// Persistent bitmaps of changed blocks, from a writer's point of view who does not keep them.
//
// A bitmap with the flag "auto" promises to know every change since it was begun. Before the first change
// that is not entered into it, it is marked "in use" on stable storage, which is the format's word for "not
// to be trusted any more": qemu-img and backup tools refuse it by name. A bitmap without "auto" records
// nothing and stays as it is. A directory that cannot be understood loses its autoclear bit, which says the
// same of all of it.
//
// Source: QEMU's docs/interop/qcow2.txt, "Bitmaps".
//
// Thread: any. Blocks.
#pragma once

#include "disk-images/qcow2/blocking_file.h"
#include "disk-images/qcow2/header.h"

namespace ringback::image::qcow2 {

// Clears the bit in `header` (not in the file) if need be.
[[nodiscard]] Result<void> mark_bitmaps_in_use(BlockingFile& file, Header& header);

}  // namespace ringback::image::qcow2
