// SPDX-License-Identifier: Apache-2.0
//
// Policy: what a target string means, and which files a guest's disk may be.
//
// A target that begins with '/' is a raw image at that path: never probed for a format, because a guest that can
// write its own disk could otherwise write a header naming any file of the host. Other formats come by prefix only,
// "FORMAT:PATH"; the first colon ends the prefix, so that a path may hold colons, commas and blanks. "lvm:GROUP/VOLUME"
// is raw too: the block device on which LVM has the volume of that name, once it is active. "nbd://HOST/EXPORT" and
// "nbd+unix:///EXPORT?socket=/PATH" are a server's.
//
// Opening: the path is looked up once, with O_PATH (which has no side effect on a FIFO, a tape or a socket) and without
// magic links; what was found is judged by its type and by its real path, after all symbolic links; then that very
// inode is opened. Nothing is decided on a name that could mean another file a moment later.
//
// A block device that this host itself uses (mounted, swap, a part of another device) is no guest's disk: two kernels would
// write one file system. O_EXCL, which only such users hold, tells; disks that are open without it are told apart by
// their locks (disk-images/lock.h).
//
// O_DIRECT is the rule, because a page cache on the host doubles the guest's own and makes its flushes long. Where the
// file system refuses it, buffered I/O is the fallback. On a network file system it is used only with
// `direct-io-safe`: pages handed to a network stack may be read again by a retransmission after the request was
// answered, and then the guest has other things in them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "disk-images/lvm/lvm.h"
#include "disk-images/nbd/address.h"
#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace ringback::blk {

struct Target {
    std::string format;  // "raw", "qcow2", "vhd", "nbd"
    std::string path;    // absolute; of "nbd" the address
    std::optional<image::lvm::Name> volume = {};  // is at `path` when it is active
    std::optional<image::nbd::Address> server = {};  // of "nbd"
};

// A target as it stands in the store's `params`; `kind` is the device's: a vbd3 target comes with libxl's own prefix.
[[nodiscard]] Result<Target> parse_target(std::string_view kind, std::string_view params);

// The path of a device that a stock script has prepared: `physical-device-path`, else `physical-device` ("fd:1").
[[nodiscard]] Result<Target> prepared_target(std::string_view path, std::string_view device);

struct PathRules {
    std::vector<std::string> allow;
    std::vector<std::string> deny;
    // The longest entry that holds `path` decides; a tie is a no.
    [[nodiscard]] bool allows(std::string_view path) const;
};

struct OpenRequest {
    bool writable = false;
    bool direct_io_safe = false;
    const PathRules* within = nullptr;  // holds as well, if given
    bool refuse_host_use = false;       // EBUSY for a block device that the host itself uses
};

struct OpenedFile {
    UniqueFd fd;
    bool direct = false;
    std::string why_buffered;  // when not direct
    bool block_device = false;
    uint64_t bytes = 0;
};

// Where a file may be that an image names in its header: `roots`, or if there are none, the image's own directory. Both by
// their real paths: a header is whoever's who wrote the image.
[[nodiscard]] Result<PathRules> named_file_rules(const std::string& image, const std::vector<std::string>& roots);

// A fresh open file description, close-on-exec, of a regular file or a block device.
[[nodiscard]] Result<OpenedFile> open_target(const std::string& path, const PathRules& rules,
                                             const OpenRequest& request);

// A Unix socket as it is found (O_PATH): to be connected to through /proc/self/fd.
[[nodiscard]] Result<UniqueFd> find_socket(const std::string& path, const PathRules& rules);

}  // namespace ringback::blk
