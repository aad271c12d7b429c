// SPDX-License-Identifier: Apache-2.0
//
// Files that an image names in its header: the backing file it continues, which may name another, and so on.
//
// Names come from whoever wrote the image, so nothing here trusts them: a protocol ("nbd://", "json:{...}")
// is refused, a relative name is resolved from the directory of the file that names it, and the Opener's
// owner decides whether it may be opened at all. A format is never guessed: a guest may have written anything
// into a raw backing file.
//
// A chain that comes back to a file it has already is refused, by device and inode and not by name. It is at
// most kMaxDepth files long.
//
// Thread: the reactor's owner, while an image is being opened.
#pragma once

#include <sys/types.h>

#include "disk-images/image.h"

namespace ringback::image {

// One file of a chain that is being opened, and the files before it (towards the guest). Lives on the stack
// of open().
class Chain {
  public:
    static constexpr unsigned kMaxDepth = 64;

    // `file` continues (or is the data file of) an image that `before` describes; null: it is the guest's
    // own. ELOOP: the chain has this file already, or is too long.
    [[nodiscard]] static Result<Chain> add(const Chain* before, const File& file);
    [[nodiscard]] const std::string& name() const { return name_; }

  private:
    Chain(const Chain* before, std::string name) : before_(before), name_(std::move(name)) {}
    const Chain* before_;
    std::string name_;
    dev_t device_ = 0;
    ino_t inode_ = 0;
    unsigned depth_ = 1;
};

// `name` as it stands in the header of the file `from`, for an Opener: EACCES for what is no plain file name.
[[nodiscard]] Result<std::string> resolve_name(const std::string& from, const std::string& name);

// The backing file that the last file of `chain` names: read-only. `format` as the header has it ("raw",
// "qcow2", "vpc"); empty: refused.
[[nodiscard]] Result<std::unique_ptr<Image>> open_backing(const Chain& chain, const std::string& name,
                                                          const std::string& format, Opener& opener,
                                                          Reactor& reactor, const OpenOptions& options);

// open_image() for a file further down a chain.
[[nodiscard]] Result<std::unique_ptr<Image>> open_image_below(const Chain* before, const std::string& format,
                                                              File file, Opener& opener, Reactor& reactor,
                                                              const OpenOptions& options);

}  // namespace ringback::image
