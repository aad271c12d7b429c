// SPDX-License-Identifier: Apache-2.0
//
// rebase: an image is to continue another one than before, or none.
//
// Safe, the disk reads the same afterwards: what it takes from the old backing file, and the new one has differently, is written
// into it first, on stable storage; then the header names the new one. Interrupted, it reads the same as well. Unsafe, only
// the name is changed: for a backing file that was moved.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>

#include "disk-images/chain.h"
#include "disk-images/lock.h"
#include "disk-images/qcow2/blocking_file.h"
#include "disk-images/qcow2/check.h"
#include "disk-images/vdisk/commands.h"
#include "disk-images/vdisk/disk.h"

namespace ringback::vdisk {

namespace qcow2 = image::qcow2;

namespace {

constexpr uint64_t kPiece = 1U << 20;
constexpr uint64_t kUnit = 65536;

struct Page {
    explicit Page(uint64_t bytes) : data(static_cast<std::byte*>(std::aligned_alloc(4096, bytes))) { INVARIANT(data != nullptr); }
    ~Page() { std::free(data); }
    Page(const Page&) = delete;
    Page& operator=(const Page&) = delete;
    std::byte* data;
};

// What the new backing file has there; zeros behind its end.
Result<void> read_new(std::optional<Disk>& base, uint64_t at, std::span<std::byte> to) {
    const uint64_t there = base && at < base->bytes() ? std::min<uint64_t>(to.size(), base->bytes() - at) : 0;
    std::fill(to.begin() + static_cast<ptrdiff_t>(there), to.end(), std::byte{0});
    return there > 0 ? base->read(at, to.first(there)) : Result<void>();
}

// Bytes that were written into the disk.
Result<uint64_t> take_over(Disk& disk, std::optional<Disk>& base, const Output& output) {
    const auto progress = progress_bar(output);
    Page mine(kPiece);
    Page theirs(kPiece);
    uint64_t written = 0;
    for (uint64_t at = 0; at < disk.bytes();) {
        const image::Extent extent = TRY(disk->extent(at));
        if (extent.here) {
            at += extent.length;
            continue;
        }
        const uint64_t bytes = std::min({extent.length, kPiece, disk.bytes() - at});
        TRY(disk.read(at, {mine.data, bytes}));
        TRY(read_new(base, at, {theirs.data, bytes}));
        for (uint64_t from = 0; from < bytes; from += kUnit) {
            const uint64_t length = std::min(kUnit, bytes - from);
            if (std::memcmp(mine.data + from, theirs.data + from, length) == 0) continue;
            TRY(disk.write(at + from, {mine.data + from, length}));
            written += length;
        }
        at += bytes;
        if (progress) progress(at, disk.bytes());
    }
    return written;
}

Result<void> name_backing(const Spec& spec, const std::string& name, const std::string& format) {
    const image::File file = TRY(open_file(spec, true));
    const image::ImageLock lock = TRY(image::ImageLock::take(file.fd.get(), spec.path, true, 0));
    qcow2::BlockingFile blocking(file.fd.get(), spec.path);
    qcow2::Header header = TRY(qcow2::read_header(blocking));
    if (!name.empty() && (header.autoclear & qcow2::autoclear::kRawData) != 0) {
        return Error{EINVAL, fmt::format("rebase {}: its data file is raw, and then nothing can lie below it", spec.path)};
    }
    header.backing_name = name;
    header.backing_format = format == "vhd" ? "vpc" : format;
    std::vector<std::byte> first(header.cluster());
    TRY(blocking.read(0, first));
    first = TRY(qcow2::change_header(first, header, spec.path));
    TRY(blocking.write(0, first));
    return blocking.sync();
}

}  // namespace

Result<int> rebase(const RebaseArguments& arguments, const Output& output) {
    const Spec spec = TRY(find_image(arguments.file, arguments.format));
    if (spec.format != "qcow2") return Error{ENOTSUP, fmt::format("rebase {}: only qcow2 images can be, and this one is {}", spec.path, spec.format)};
    std::string base_format = arguments.backing_format;
    uint64_t written = 0;
    if (arguments.unsafe) {
        // It may be where this machine does not see it.
        if (!arguments.backing.empty() && base_format.empty()) {
            base_format = TRY(name_image(TRY(image::resolve_name(spec.path, arguments.backing)), "")).format;
        }
    } else {
        const auto reactor = TRY(make_reactor());
        Disk disk = TRY(Disk::open(spec, true, *reactor));
        std::optional<Disk> base;
        if (!arguments.backing.empty()) {
            const Spec below = TRY(find_image(TRY(image::resolve_name(spec.path, arguments.backing)), arguments.backing_format));
            base_format = below.format;
            base.emplace(TRY(Disk::open(below, false, *reactor)));
        }
        written = TRY(take_over(disk, base, output));
        TRY(disk.finish());
    }
    TRY(name_backing(spec, arguments.backing, base_format));
    if (output.json) {
        fmt::print("{}\n", nlohmann::ordered_json{{"file", spec.path}, {"backing-file", arguments.backing},
                                                  {"backing-format", base_format}, {"bytes-written", written}}.dump(2));
    } else if (!output.quiet) {
        fmt::print("{}: continues {} now; {} written into it\n", spec.path, arguments.backing.empty() ? "nothing" : arguments.backing,
                   human_size(written));
    }
    return kDone;
}

}  // namespace ringback::vdisk
