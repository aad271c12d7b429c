// SPDX-License-Identifier: Apache-2.0
#include "blkback/policy.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#include <algorithm>
#include <array>
#include <climits>

#include "hypervisor/store.h"

namespace ringback::blk {

namespace {

// File system types that have no name in <linux/magic.h>.
constexpr long kCephMagic = 0x00c36400;
constexpr long kLustreMagic = 0x0bd00bd0;
constexpr long kGpfsMagic = 0x47504653;

bool is_network(long type) {
    constexpr std::array kTypes{static_cast<long>(NFS_SUPER_MAGIC),  static_cast<long>(SMB_SUPER_MAGIC),
                                static_cast<long>(SMB2_SUPER_MAGIC), static_cast<long>(CIFS_SUPER_MAGIC),
                                static_cast<long>(V9FS_MAGIC),       static_cast<long>(AFS_SUPER_MAGIC),
                                static_cast<long>(FUSE_SUPER_MAGIC), static_cast<long>(OCFS2_SUPER_MAGIC),
                                kCephMagic, kLustreMagic, kGpfsMagic};
    return std::find(kTypes.begin(), kTypes.end(), type) != kTypes.end();
}

std::optional<size_t> longest_match(const std::vector<std::string>& entries, std::string_view path) {
    std::optional<size_t> longest;
    for (const std::string& entry : entries) {
        const bool inside = entry == "/" || path == entry ||
                            (path.starts_with(entry) && path.size() > entry.size() && path[entry.size()] == '/');
        if (inside && (!longest || *longest < entry.size())) longest = entry.size();
    }
    return longest;
}

const char* type_name(mode_t mode) {
    if (S_ISDIR(mode)) return "a directory";
    if (S_ISFIFO(mode)) return "a FIFO";
    if (S_ISSOCK(mode)) return "a socket";
    if (S_ISCHR(mode)) return "a character device";
    return "something else";
}

Result<UniqueFd> look_up(const std::string& path) {
    open_how how{};
    how.flags = O_PATH | O_CLOEXEC;
    how.resolve = RESOLVE_NO_MAGICLINKS;
    const long fd = ::syscall(SYS_openat2, AT_FDCWD, path.c_str(), &how, sizeof(how));
    if (fd < 0) return os_error("open " + path);
    return UniqueFd(static_cast<int>(fd));
}

std::string link_of(const UniqueFd& fd) { return fmt::format("/proc/self/fd/{}", fd.get()); }

Result<std::string> real_path(const UniqueFd& fd, const std::string& path) {
    std::array<char, PATH_MAX> buffer{};
    const ssize_t length = ::readlink(link_of(fd).c_str(), buffer.data(), buffer.size());
    if (length < 0) return os_error("find the real path of " + path);
    return std::string(buffer.data(), static_cast<size_t>(length));
}

Result<void> check_access(const std::string& path, const struct stat& info, const OpenRequest& request) {
    if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode)) {
        return Error{S_ISDIR(info.st_mode) ? EISDIR : EINVAL,
                     fmt::format("open {}: it is {}; a disk is a regular file or a block device", path,
                                 type_name(info.st_mode))};
    }
    // The superuser may write any file; whoever took every write permission from an image meant it.
    if (request.writable && S_ISREG(info.st_mode) && (info.st_mode & 0222) == 0) {
        return Error{EACCES, fmt::format("open {} for writing: the file is read-only (mode {:04o}); use access=ro or "
                                         "chmod u+w it", path, info.st_mode & 07777)};
    }
    return {};
}

Result<uint64_t> size_of(const UniqueFd& fd, const std::string& path, const struct stat& info) {
    uint64_t bytes = static_cast<uint64_t>(info.st_size);
    if (S_ISBLK(info.st_mode) && ::ioctl(fd.get(), BLKGETSIZE64, &bytes) != 0) {
        return os_error("read the size of " + path);
    }
    if (bytes == 0) return Error{EINVAL, fmt::format("open {}: its size is zero; a disk needs at least one sector", path)};
    if (bytes < 512) {
        return Error{EINVAL, fmt::format("open {}: its size is {} bytes; a disk needs at least one sector of 512", path,
                                         bytes)};
    }
    return bytes;
}

// Shared by all who open it so: the kernel's own users of a device, and nobody else, are in the way.
Result<void> check_host_use(const UniqueFd& found, const std::string& path) {
    const UniqueFd probe(::open(link_of(found).c_str(), O_RDONLY | O_EXCL | O_CLOEXEC | O_NONBLOCK));
    if (probe || errno != EBUSY) return {};
    return Error{EBUSY, fmt::format("open {}: this host itself uses it (mounted, swap, or a part of another device)", path)};
}

// The system would read it up to the NUL: another file than the one that is named.
Result<void> check_path(std::string_view path) {
    if (path.size() < PATH_MAX && path.find('\0') == std::string_view::npos) return {};
    return Error{ENAMETOOLONG, "the disk's target is no path: too long, or holds a NUL"};
}

}  // namespace

Result<Target> parse_target(std::string_view kind, std::string_view params) {
    std::string_view text = params;
    // libxl knows two formats for backendtype=tap and puts their names in front: aio (its name for raw) and vhd.
    if (kind == "vbd3" && text.starts_with("aio:")) text.remove_prefix(4);
    if (text.empty()) return Error{EINVAL, "the disk has no target (params is empty); give target=/path"};
    if (text.front() == '/') {
        TRY(check_path(text));
        return Target{"raw", std::string(text)};
    }
    if (image::nbd::is_address(text)) {
        image::nbd::Address server = TRY(image::nbd::parse_address(text));
        return Target{"nbd", server.text, {}, std::move(server)};
    }
    const size_t colon = text.find(':');
    if (colon == std::string_view::npos || colon == 0) {
        return Error{EINVAL, fmt::format("the disk's target \"{}\" is no absolute path; give target=/path for a raw "
                                         "image", text)};
    }
    const std::string_view format = text.substr(0, colon);
    if (format == "lvm") {
        image::lvm::Name name = TRY(image::lvm::parse_name(text.substr(colon + 1)));
        return Target{"raw", name.path(), std::move(name)};
    }
    if (format != "qcow2" && format != "vhd") {
        return Error{ENOTSUP, fmt::format("the disk's target \"{}\" has an unknown scheme \"{}\"; supported: /path (raw), "
                                          "qcow2:/path, vhd:/path, lvm:group/volume, nbd://host/name, "
                                          "nbd+unix:///name?socket=/path", text, format)};
    }
    const std::string_view path = text.substr(colon + 1);
    if (!path.starts_with('/') || path.size() >= PATH_MAX || path.find('\0') != std::string_view::npos) {
        return Error{EINVAL, fmt::format("the disk's target \"{}\" needs an absolute path after its scheme", text)};
    }
    return Target{std::string(format), std::string(path)};
}

Result<Target> prepared_target(std::string_view path, std::string_view device) {
    if (path.starts_with('/')) {
        TRY(check_path(path));
        return Target{"raw", std::string(path)};
    }
    const size_t colon = device.find(':');
    const auto hex = [](std::string_view text) -> std::optional<unsigned> {
        if (text.empty() || text.size() > 8 || text.find_first_not_of("0123456789abcdefABCDEF") != text.npos) {
            return std::nullopt;
        }
        return static_cast<unsigned>(std::stoul(std::string(text), nullptr, 16));
    };
    if (colon != std::string_view::npos) {
        const auto major = hex(device.substr(0, colon));
        const auto minor = hex(device.substr(colon + 1));
        if (major && minor) return Target{"raw", fmt::format("/dev/block/{}:{}", *major, *minor)};
    }
    return Error{EINVAL, fmt::format("the disk's script left no usable device (physical-device-path \"{}\", "
                                     "physical-device \"{}\")", path, device)};
}

bool PathRules::allows(std::string_view path) const {
    const auto allowed = longest_match(allow, path);
    const auto denied = longest_match(deny, path);
    return allowed && (!denied || *denied < *allowed);
}

Result<PathRules> named_file_rules(const std::string& image, const std::vector<std::string>& roots) {
    if (!roots.empty()) return PathRules{roots, {}};
    const std::string real = TRY(real_path(TRY(look_up(image)), image));
    const size_t slash = real.rfind('/');
    return PathRules{{slash == 0 || slash == std::string::npos ? "/" : real.substr(0, slash)}, {}};
}

Result<OpenedFile> open_target(const std::string& path, const PathRules& rules, const OpenRequest& request) {
    const UniqueFd found = TRY(look_up(path));
    const std::string real = TRY(real_path(found, path));
    if (request.within != nullptr && !request.within->allows(real)) {
        return Error{EPERM, fmt::format("open {}: {} is outside the directory of the image that names it (image_roots of "
                                        "blkbackd.toml)", path, real == path ? "it" : real)};
    }
    if (!rules.allows(real)) {
        return Error{EPERM, fmt::format("open {}: {} is outside the directories that [policy] of {} allows", path,
                                        real == path ? "it" : real, "blkbackd.toml")};
    }
    struct stat info{};
    if (::fstat(found.get(), &info) != 0) return os_error("look at " + path);
    TRY(check_access(path, info, request));

    OpenedFile file;
    file.block_device = S_ISBLK(info.st_mode);
    struct statfs fs{};
    if (file.block_device && request.refuse_host_use) TRY(check_host_use(found, path));
    const bool remote = !file.block_device && ::fstatfs(found.get(), &fs) == 0 && is_network(fs.f_type);
    const int access = (request.writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY;
    if (remote && !request.direct_io_safe) {
        file.why_buffered = "network file system without direct-io-safe";
    } else {
        file.fd.reset(::open(link_of(found).c_str(), access | O_DIRECT));
        file.direct = static_cast<bool>(file.fd);
        if (!file.direct && errno == EINVAL) file.why_buffered = "the file system refuses O_DIRECT";
    }
    if (!file.why_buffered.empty()) file.fd.reset(::open(link_of(found).c_str(), access));
    if (!file.fd) {
        return os_error(fmt::format("open {} for {}", path, request.writable ? "reading and writing" : "reading"));
    }
    int read_only = 0;
    if (file.block_device && request.writable && ::ioctl(file.fd.get(), BLKROGET, &read_only) == 0 && read_only != 0) {
        return Error{EROFS, fmt::format("open {} for writing: the device is read-only; use access=ro", path)};
    }
    file.bytes = TRY(size_of(file.fd, path, info));
    return file;
}

Result<UniqueFd> find_socket(const std::string& path, const PathRules& rules) {
    UniqueFd found = TRY(look_up(path));
    const std::string real = TRY(real_path(found, path));
    if (!rules.allows(real)) {
        return Error{EPERM, fmt::format("open {}: {} is outside the directories that [policy] of {} allows", path,
                                        real == path ? "it" : real, "blkbackd.toml")};
    }
    struct stat info{};
    if (::fstat(found.get(), &info) != 0) return os_error("look at " + path);
    if (!S_ISSOCK(info.st_mode)) return Error{ENOTSOCK, fmt::format("open {}: it is no socket", path)};
    return found;
}

}  // namespace ringback::blk
