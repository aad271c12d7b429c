// SPDX-License-Identifier: Apache-2.0
#include "disk-images/vdisk/disk.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <algorithm>

#include "disk-images/chain.h"
#include "disk-images/lock.h"
#include "disk-images/vdisk/qcow2_commands.h"
#include "disk-images/vhd/image.h"

namespace ringback::vdisk {

Result<image::File> PlainOpener::open(const std::string& name, Access access) {
    return open_file(Spec{"", name}, access == Access::write);
}

Result<std::unique_ptr<Reactor>> make_reactor() {
    auto reactor = TRY(Reactor::create({.entries = 256, .files = 256, .buffers = 8}));
    TRY(reactor->start());
    return reactor;
}

Result<Disk> Disk::open(const Spec& spec, bool writable, Reactor& reactor) {
    image::File file = TRY(open_file(spec, writable));
    auto opener = std::make_unique<PlainOpener>();
    auto image = TRY(image::open_image(spec.format, std::move(file), *opener, reactor, {.writable = writable}));
    return Disk(spec, std::move(opener), std::move(image), reactor, writable);
}

Result<Disk> Disk::open_alone(const Spec& spec, Reactor& reactor) {
    image::File file = TRY(open_file(spec, false));
    auto image = TRY(image::vhd::open_alone(std::move(file), reactor));
    return Disk(spec, nullptr, std::move(image), reactor, false);
}

Result<void> Disk::check_parent(const Spec& below) const {
    const image::File child = TRY(open_file(spec_, false));
    const image::File parent = TRY(open_file(below, false));
    const auto mine = TRY(image::vhd::read_layout(image::SyncIo(child.fd.get(), spec_.path)));
    const auto theirs = TRY(image::vhd::read_layout(image::SyncIo(parent.fd.get(), below.path)));
    if (mine.header.parent_id == theirs.footer.id) return {};
    return Error{EINVAL, fmt::format("{}: its parent {} is another disk than when it was made", spec_.path, below.path)};
}

Disk::~Disk() {
    if (image_) (void)image::close_and_wait(*image_, *reactor_);
}

Result<void> Disk::wait(image::Io& io, const char* doing) {
    struct Outcome {
        bool done = false;
        int32_t result = 0;
    };
    struct Waiting : image::Io {
        Outcome outcome;
    } waiting;
    static_cast<image::Io&>(waiting) = io;
    waiting.done = [](image::Io& self, int32_t result) noexcept { static_cast<Waiting&>(self).outcome = {true, result}; };
    image::Io* one = &waiting;
    image_->submit({&one, 1});
    while (!waiting.outcome.done) reactor_->turn(reactor_->in_flight() > 0);
    if (waiting.outcome.result == 0) return {};
    return os_error(-waiting.outcome.result, fmt::format("{} {} at {}", doing, spec_.path, io.offset));
}

Result<void> Disk::transfer(image::Op op, uint64_t offset, std::span<std::byte> data, const char* doing) {
    iovec vector{data.data(), data.size()};
    image::Io io;
    io.op = op;
    io.offset = offset;
    io.length = data.size();
    io.vectors = {&vector, 1};
    return wait(io, doing);
}

Result<void> Disk::read(uint64_t offset, std::span<std::byte> to) { return transfer(image::Op::read, offset, to, "read"); }

Result<void> Disk::write(uint64_t offset, std::span<std::byte> from) { return transfer(image::Op::write, offset, from, "write"); }

Result<void> Disk::run(image::Op op, uint64_t offset, uint64_t bytes, const char* doing) {
    image::Io io;
    io.op = op;
    io.offset = offset;
    io.length = bytes;
    return wait(io, doing);
}

Result<void> Disk::finish() {
    if (writable_) TRY(run(image::Op::flush, 0, 0, "flush"));
    const int32_t result = image::close_and_wait(*image_, *reactor_);
    image_.reset();
    if (result != 0) return os_error(-result, "close " + spec_.path);
    return {};
}

namespace {

struct Option {
    std::string key;
    std::string value;
};
Result<Option> split(const std::string& text) {
    const size_t equal = text.find('=');
    if (equal == std::string::npos || equal == 0) return Error{EINVAL, fmt::format("option \"{}\": key=value is wanted", text)};
    return Option{text.substr(0, equal), text.substr(equal + 1)};
}
Result<bool> yes_or_no(const Option& option) {
    if (option.value == "on" || option.value == "yes" || option.value == "true") return true;
    if (option.value == "off" || option.value == "no" || option.value == "false") return false;
    return Error{EINVAL, fmt::format("option {}={}: on or off is wanted", option.key, option.value)};
}
Error unknown(const Option& option, const std::string& format) {
    return Error{EINVAL, fmt::format("option {}: {} images have no such option ({})", option.key, format, option_help())};
}

Result<uint64_t> create_raw(const image::SyncIo& file, int fd, const NewImage& wanted) {
    bool full = false;
    for (const std::string& text : wanted.options) {
        const Option option = TRY(split(text));
        if (option.key != "preallocation" || (option.value != "off" && option.value != "full")) return unknown(option, "raw");
        full = option.value == "full";
    }
    const uint64_t bytes = (wanted.bytes + 511) / 512 * 512;
    TRY(file.truncate(bytes));
    if (full && bytes > 0) {
        if (const int failed = posix_fallocate(fd, 0, static_cast<off_t>(bytes)); failed != 0) {
            return os_error(failed, fmt::format("take {} bytes for {}", bytes, file.name()));
        }
    }
    return bytes;
}

Result<image::vhd::Layout> parent_of(const std::string& child, const std::string& name) {
    const std::string path = TRY(image::resolve_name(child, name));
    const image::File file = TRY(open_file(Spec{"vhd", path}, false));
    return image::vhd::read_layout(image::SyncIo(file.fd.get(), path));
}

Result<uint64_t> create_vhd(const image::SyncIo& file, const NewImage& wanted) {
    image::vhd::CreateOptions options;
    options.bytes = wanted.bytes;
    for (const std::string& text : wanted.options) {
        const Option option = TRY(split(text));
        if (option.key == "subformat" && (option.value == "fixed" || option.value == "dynamic")) {
            options.type = option.value == "fixed" ? image::vhd::Type::fixed : image::vhd::Type::dynamic;
        } else if (option.key == "block_size") {
            const uint64_t block = TRY(parse_size(option.value));
            if (block < 4096 || block > (256U << 20) || (block & (block - 1)) != 0) {
                return Error{EINVAL, fmt::format("option block_size={}: a power of two from 4k to 256M is wanted", option.value)};
            }
            options.block_bytes = static_cast<uint32_t>(block);
        } else if (option.key == "force_size") {
            options.geometry_size = !TRY(yes_or_no(option));
        } else {
            return unknown(option, "vhd");
        }
    }
    if (!wanted.backing.empty()) {
        if (wanted.backing_format != "vhd") {
            return Error{EINVAL, fmt::format("make {}: the parent of a VHD is a VHD, not {}", file.name(), wanted.backing_format)};
        }
        if (options.type == image::vhd::Type::fixed) {
            return Error{EINVAL, fmt::format("make {}: a fixed VHD has no parent", file.name())};
        }
        const image::vhd::Layout parent = TRY(parent_of(file.name(), wanted.backing));
        options.type = image::vhd::Type::differencing;
        options.parent = wanted.backing;
        options.parent_id = parent.footer.id;
        options.parent_timestamp = parent.footer.timestamp;
        if (options.bytes == 0) options.bytes = parent.footer.disk_bytes();
        if (parent.dynamic()) options.block_bytes = parent.header.block_bytes;
    }
    return image::vhd::create(file, options);
}

}  // namespace

const char* option_help() {
    return "raw: preallocation=off|full; vhd: subformat=dynamic|fixed, block_size=SIZE, force_size=on|off; qcow2: "
           "compat=1.1|0.10, cluster_size=SIZE, refcount_bits=N, extended_l2=on|off, lazy_refcounts=on|off, "
           "compression_type=zlib|zstd";
}

Result<uint64_t> create_image(const Spec& spec, const NewImage& wanted) {
    struct stat about {};
    const bool there = stat(spec.path.c_str(), &about) == 0;
    if (there && S_ISBLK(about.st_mode)) {
        if (spec.format != "raw") {
            return Error{ENOTSUP, fmt::format("make {}: {} images are made in files, not on block devices", spec.path, spec.format)};
        }
        return image::SyncIo(TRY(open_file(spec, true)).fd.get(), spec.path).size();
    }
    if (there && !S_ISREG(about.st_mode)) return TRY(open_file(spec, true)), Error{};
    if (there && about.st_size > 0 && !wanted.force) {
        return Error{EEXIST, fmt::format("make {}: there is such a file, and it is not empty; --force writes over it", spec.path)};
    }
    if (spec.format == "raw" && !wanted.backing.empty()) {
        return Error{EINVAL, fmt::format("make {}: a raw image has no backing file", spec.path)};
    }
    const UniqueFd fd(::open(spec.path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY, 0644));
    if (!fd) return os_error("make " + spec.path);
    const auto make = [&]() -> Result<uint64_t> {
        const auto lock = TRY(image::ImageLock::take(fd.get(), spec.path, true, 0));
        const image::SyncIo file(fd.get(), spec.path);
        TRY(file.truncate(0));
        if (spec.format == "raw") return create_raw(file, fd.get(), wanted);
        if (spec.format == "vhd") return create_vhd(file, wanted);
        return create_qcow2(fd.get(), spec.path, wanted);
    };
    auto made = make();
    // Not what was there before: that may be somebody's, and is locked by him.
    if (!made && !there) (void)::unlink(spec.path.c_str());
    return made;
}

}  // namespace ringback::vdisk
