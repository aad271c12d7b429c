// SPDX-License-Identifier: Apache-2.0
//
// Commands that make or change images: create, convert, dd, resize, measure.
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "disk-images/chain.h"
#include "disk-images/lock.h"
#include "disk-images/vdisk/commands.h"
#include "disk-images/vdisk/copy.h"
#include "disk-images/vhd/header.h"

namespace ringback::vdisk {

namespace {

using Json = nlohmann::ordered_json;

void say(const Output& output, const Json& json, const std::string& text) {
    if (output.json) {
        fmt::print("{}\n", json.dump(2));
    } else if (!output.quiet) {
        fmt::print("{}\n", text);
    }
}

bool is_device(const std::string& path) {
    struct stat about {};
    return stat(path.c_str(), &about) == 0 && S_ISBLK(about.st_mode);
}

bool same_file(const std::string& one, const std::string& other) {
    struct stat a {};
    struct stat b {};
    if (stat(one.c_str(), &a) != 0 || stat(other.c_str(), &b) != 0) return false;
    return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

// Removes what this command made, unless it came to a good end.
class Made {
  public:
    Made(std::string path, bool ours) : path_(std::move(path)), ours_(ours) {}
    Made(const Made&) = delete;
    Made& operator=(const Made&) = delete;
    ~Made() {
        if (ours_) (void)::unlink(path_.c_str());
    }
    void keep() { ours_ = false; }

  private:
    std::string path_;
    bool ours_;
};

// Raw to raw on a file system that shares blocks: no data moves at all. False: not here.
Result<bool> reflink(const Spec& from, const Spec& to) {
    if (from.format != "raw" || to.format != "raw" || is_device(from.path) || is_device(to.path)) return false;
    const image::File source = TRY(open_file(from, false));
    const image::File target = TRY(open_file(to, true));
    const auto lock = TRY(image::ImageLock::take(source.fd.get(), from.path, false, 0));
    const auto other = TRY(image::ImageLock::take(target.fd.get(), to.path, true, 0));
    return ioctl(target.fd.get(), FICLONE, source.fd.get()) == 0 && fsync(target.fd.get()) == 0;
}

}  // namespace

Result<int> create(const CreateArguments& arguments, const Output& output) {
    const Spec spec = TRY(name_image(arguments.file, arguments.format));
    NewImage wanted;
    if (!arguments.size.empty()) wanted.bytes = TRY(parse_size(arguments.size));
    if (arguments.size.empty() && arguments.backing.empty()) {
        return Error{EINVAL, fmt::format("make {}: a size is needed", spec.path)};
    }
    wanted.backing = arguments.backing;
    wanted.backing_format = arguments.backing_format;
    if (!wanted.backing.empty()) {
        // From the image's own directory, as whoever opens it will look.
        const Spec backing{"", TRY(image::resolve_name(spec.path, wanted.backing))};
        wanted.backing_format = TRY(find_image(backing.path, arguments.backing_format)).format;
    }
    wanted.options = arguments.options;
    wanted.force = arguments.force;
    const uint64_t bytes = TRY(create_image(spec, wanted));
    say(output, {{"file", spec.path}, {"format", spec.format}, {"virtual-size", bytes}},
        fmt::format("{}: {}, {} ({} bytes)", spec.path, spec.format, human_size(bytes), bytes));
    return kDone;
}

Result<int> convert(const ConvertArguments& arguments, const Output& output) {
    const Spec from = TRY(find_image(arguments.source, arguments.format));
    const Spec to = arguments.existing ? TRY(find_image(arguments.target, arguments.target_format))
                                       : TRY(name_image(arguments.target, arguments.target_format));
    if (same_file(from.path, to.path)) {
        return Error{EINVAL, fmt::format("convert {} to {}: they are the same file", from.path, to.path)};
    }
    const auto reactor = TRY(make_reactor());
    Disk source = TRY(Disk::open(from, false, *reactor));
    struct stat about {};
    const bool there = stat(to.path.c_str(), &about) == 0;
    const bool existing = arguments.existing || (there && S_ISBLK(about.st_mode));
    Made made(to.path, !there);
    if (!existing) {
        NewImage wanted;
        wanted.bytes = source.bytes();
        wanted.options = arguments.options;
        wanted.force = arguments.force;
        (void)TRY(create_image(to, wanted));
    }
    CopyCounts counts;
    bool shared = false;
    if (!existing && from.format == "raw" && to.format == "raw") {
        const uint64_t bytes = source.bytes();
        TRY(source.finish());
        shared = TRY(reflink(from, to));
        if (!shared) {
            Disk again = TRY(Disk::open(from, false, *reactor));
            Disk target = TRY(Disk::open(to, true, *reactor));
            counts = TRY(copy(again, target, *reactor, {.bytes = bytes, .target_is_zero = true}, progress_bar(output)));
            TRY(target.finish());
        }
    } else {
        Disk target = TRY(Disk::open(to, true, *reactor));
        if (target.bytes() < source.bytes()) {
            return Error{ENOSPC, fmt::format("convert {} to {}: the target has {} bytes, {} are needed", from.path, to.path,
                                             target.bytes(), source.bytes())};
        }
        counts = TRY(copy(source, target, *reactor, {.bytes = source.bytes(), .target_is_zero = !existing},
                          progress_bar(output)));
        TRY(target.finish());
    }
    made.keep();
    say(output,
        {{"source", from.path}, {"target", to.path}, {"format", to.format}, {"bytes-read", counts.read},
         {"bytes-written", counts.written}, {"bytes-zeroed", counts.zeroed}, {"shared", shared}},
        shared ? fmt::format("{}: shares its blocks with {}", to.path, from.path)
               : fmt::format("{}: {} written", to.path, human_size(counts.written)));
    return kDone;
}

Result<int> dd(const DdArguments& arguments, const Output& output) {
    const Spec from = TRY(find_image(arguments.source, arguments.format));
    const uint64_t block = TRY(parse_size(arguments.block));
    if (block == 0 || block % 512 != 0) return Error{EINVAL, fmt::format("bs={}: a multiple of 512 is needed", arguments.block)};
    const uint64_t skip = TRY(parse_size(arguments.skip));
    const uint64_t seek = TRY(parse_size(arguments.seek));
    const uint64_t count = arguments.count.empty() ? UINT64_MAX / block : TRY(parse_size(arguments.count));
    if (skip > UINT64_MAX / block || seek > UINT64_MAX / 2 / block || count > UINT64_MAX / block) {
        return Error{EINVAL, "dd: a position beyond all disks"};
    }
    const auto reactor = TRY(make_reactor());
    Disk source = TRY(Disk::open(from, false, *reactor));
    CopyJob job;
    job.from = std::min(skip * block, source.bytes());
    job.to = seek * block;
    job.bytes = std::min(count * block, source.bytes() - job.from);
    struct stat about {};
    const bool there = stat(arguments.target.c_str(), &about) == 0;
    const Spec to = there ? TRY(find_image(arguments.target, arguments.target_format))
                          : TRY(name_image(arguments.target, arguments.target_format));
    if (same_file(from.path, to.path)) return Error{EINVAL, fmt::format("dd {} to {}: they are the same file", from.path, to.path)};
    Made made(to.path, !there);
    if (!there) {
        if (job.to + job.bytes == 0) return Error{EINVAL, fmt::format("dd: nothing of {} is copied", from.path)};
        NewImage wanted;
        wanted.bytes = job.to + job.bytes;
        (void)TRY(create_image(to, wanted));
        job.target_is_zero = true;
    }
    Disk target = TRY(Disk::open(to, true, *reactor));
    if (target.bytes() < job.to + job.bytes) {
        return Error{ENOSPC, fmt::format("dd {} to {}: the target has {} bytes, {} are needed; vdisk resize makes it larger",
                                         from.path, to.path, target.bytes(), job.to + job.bytes)};
    }
    const CopyCounts counts = TRY(copy(source, target, *reactor, job, progress_bar(output)));
    TRY(target.finish());
    made.keep();
    say(output, {{"bytes", job.bytes}, {"bytes-read", counts.read}, {"bytes-written", counts.written}, {"bytes-zeroed", counts.zeroed}},
        fmt::format("{}: {} copied", to.path, human_size(job.bytes)));
    return kDone;
}

Result<int> resize(const ResizeArguments& arguments, const Output& output) {
    const Spec spec = TRY(find_image(arguments.file, arguments.format));
    const auto reactor = TRY(make_reactor());
    Disk disk = TRY(Disk::open(spec, true, *reactor));
    const uint64_t old = disk.bytes();
    const bool relative = arguments.size.starts_with('+') || arguments.size.starts_with('-');
    const uint64_t number = TRY(parse_size(relative ? arguments.size.substr(1) : arguments.size));
    if (arguments.size.starts_with('-') && number >= old) return Error{EINVAL, fmt::format("resize {}: nothing would be left", spec.path)};
    uint64_t bytes = !relative ? number : arguments.size.front() == '+' ? old + number : old - number;
    bytes = (bytes + 511) / 512 * 512;
    if (bytes < old && !arguments.shrink) {
        return Error{EINVAL, fmt::format("resize {} from {} to {} bytes: what is behind would be lost; --shrink if that is meant",
                                         spec.path, old, bytes)};
    }
    if (bytes != old) TRY(disk->resize(bytes));
    bytes = disk.bytes();
    TRY(disk.finish());
    say(output, {{"file", spec.path}, {"old-size", old}, {"virtual-size", bytes}},
        fmt::format("{}: {} ({} bytes)", spec.path, human_size(bytes), bytes));
    return kDone;
}

namespace {

struct Needed {
    uint64_t required = 0;
    uint64_t full = 0;
};

uint64_t round_up(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

Needed measure_vhd(uint64_t bytes, uint64_t blocks_used) {
    const uint64_t block = image::vhd::kDefaultBlock;
    const uint64_t blocks = round_up(bytes, block) / block;
    const uint64_t stride = block + 4096;  // bitmap, aligned
    const uint64_t fixed = round_up(4096 + round_up(blocks * 4, 512) + 512, 4096);
    return {fixed + blocks_used * stride, fixed + blocks * stride};
}

// 64 KiB clusters, refcounts of 16 bits: a new image with everything it needs to be full.
Needed measure_qcow2(uint64_t bytes, uint64_t clusters_used) {
    const uint64_t cluster = 65536;
    const uint64_t data = round_up(bytes, cluster);
    const uint64_t l2_entries = round_up(data / cluster, cluster / 8);
    const uint64_t l1_entries = round_up(l2_entries * 8 / cluster, cluster / 8);
    const uint64_t tables = cluster + l2_entries * 8 + l1_entries * 8;
    const uint64_t clusters = (tables + data) / cluster;
    uint64_t blocks = 0;
    uint64_t table = 0;
    for (uint64_t last = 0, all = clusters; all != last;) {
        last = all;
        blocks = round_up(clusters + table + blocks, cluster / 2) / (cluster / 2);
        table = round_up(blocks, cluster / 8) / (cluster / 8);
        all = clusters + blocks + table;
    }
    const uint64_t metadata = tables + (blocks + table) * cluster;
    return {metadata + clusters_used * cluster, metadata + data};
}

// Units of `unit` bytes that hold data.
Result<uint64_t> count_units(Disk& disk, uint64_t unit) {
    uint64_t count = 0;
    uint64_t counted = 0;  // units below this have been looked at
    for (uint64_t at = 0; at < disk.bytes();) {
        const image::Extent extent = TRY(disk->extent(at));
        if (extent.kind == image::Extent::Kind::data) {
            const uint64_t first = std::max(at / unit, counted);
            const uint64_t end = round_up(at + extent.length, unit) / unit;
            if (end > first) count += end - first;
            counted = std::max(counted, end);
        }
        at += extent.length;
    }
    return count;
}

}  // namespace

Result<int> measure(const MeasureArguments& arguments, const Output& output) {
    const Spec target = TRY(name_image("new", arguments.target_format));
    const uint64_t unit = target.format == "vhd" ? image::vhd::kDefaultBlock : target.format == "qcow2" ? 65536 : 512;
    uint64_t bytes = 0;
    uint64_t used = 0;
    if (!arguments.size.empty()) {
        bytes = round_up(TRY(parse_size(arguments.size)), 512);
    } else {
        const Spec spec = TRY(find_image(arguments.file, arguments.format));
        const auto reactor = TRY(make_reactor());
        Disk disk = TRY(Disk::open(spec, false, *reactor));
        bytes = disk.bytes();
        used = TRY(count_units(disk, unit));
    }
    if (target.format == "vhd" && bytes > image::vhd::kMaxBytes) {
        return Error{EFBIG, fmt::format("measure: a VHD holds at most 2040 GiB, not {} bytes", bytes)};
    }
    const Needed needed = target.format == "vhd"     ? measure_vhd(bytes, used)
                          : target.format == "qcow2" ? measure_qcow2(bytes, used)
                                                     : Needed{std::min(used * unit, bytes), bytes};
    say(output, {{"required", needed.required}, {"fully-allocated", needed.full}},
        fmt::format("required size: {}\nfully allocated size: {}", needed.required, needed.full));
    return kDone;
}

}  // namespace ringback::vdisk
