// SPDX-License-Identifier: Apache-2.0
#include "disk-images/chain.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cctype>

namespace ringback::image {

namespace {

// "nbd:...", "json:{", "file:/x", "https://...": a word before a colon, without a slash before it.
bool has_protocol(const std::string& name) {
    const size_t colon = name.find(':');
    return colon != std::string::npos && colon > 0 && name.find('/') > colon &&
           std::all_of(name.begin(), name.begin() + static_cast<ptrdiff_t>(colon), [](unsigned char c) {
               return std::isalnum(c) != 0 || c == '+' || c == '-' || c == '.' || c == '_';
           });
}

}  // namespace

Result<Chain> Chain::add(const Chain* before, const File& file) {
    struct stat about {};
    if (fstat(file.fd.get(), &about) != 0) return os_error("look at " + file.name);
    Chain chain(before, file.name);
    // A device's identity is its number; several nodes may have it.
    const bool device = S_ISBLK(about.st_mode);
    chain.device_ = device ? about.st_rdev : about.st_dev;
    chain.inode_ = device ? 0 : about.st_ino;
    if (before != nullptr) chain.depth_ = before->depth_ + 1;
    if (chain.depth_ > kMaxDepth) {
        return Error{ELOOP,
                     fmt::format("open {}: more than {} files in its backing chain", file.name, kMaxDepth)};
    }
    for (const Chain* link = before; link != nullptr; link = link->before_) {
        if (link->device_ == chain.device_ && link->inode_ == chain.inode_) {
            return Error{ELOOP, fmt::format("open {}: the backing chain comes back to it", file.name)};
        }
    }
    return chain;
}

Result<std::string> resolve_name(const std::string& from, const std::string& name) {
    if (name.empty()) return Error{EINVAL, fmt::format("open a file that {} names: the name is empty", from)};
    if (name.find('\0') != std::string::npos) {
        return Error{EINVAL, fmt::format("open a file that {} names: the name holds a NUL", from)};
    }
    if (name.front() == '/') return name;
    if (has_protocol(name)) {
        return Error{EACCES,
                     fmt::format("open \"{}\", which {} names: a plain file name is needed, not a protocol",
                                 name, from)};
    }
    const size_t slash = from.rfind('/');
    return slash == std::string::npos ? name : from.substr(0, slash + 1) + name;
}

Result<std::unique_ptr<Image>> open_backing(const Chain& chain, const std::string& name,
                                            const std::string& format, Opener& opener, Reactor& reactor,
                                            const OpenOptions& options) {
    const std::string path = TRY(resolve_name(chain.name(), name));
    if (format.empty()) {
        return Error{
            EINVAL,
            fmt::format(
                "open the backing file \"{}\" of {}: the header does not name its format, which is never "
                "guessed; set it with: qemu-img rebase -u -F FORMAT -b FILE IMAGE",
                name, chain.name())};
    }
    File file = TRY(opener.open(path, Opener::Access::read));
    return open_image_below(&chain, format == "vpc" ? "vhd" : format, std::move(file), opener, reactor,
                            {.writable = false, .discard = false, .lock_wait_ms = options.lock_wait_ms});
}

}  // namespace ringback::image
