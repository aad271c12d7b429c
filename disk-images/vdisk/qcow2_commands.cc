// SPDX-License-Identifier: Apache-2.0
#include "disk-images/vdisk/qcow2_commands.h"

#include <fmt/format.h>

#include "disk-images/chain.h"
#include "disk-images/qcow2/blocking_file.h"
#include "disk-images/qcow2/check.h"
#include "disk-images/qcow2/create.h"

namespace ringback::vdisk {

namespace qcow2 = image::qcow2;

namespace {

Error unknown(const std::string& key) {
    return Error{EINVAL, fmt::format("option {}: qcow2 images have no such option, or not with this value ({})", key, option_help())};
}

Result<void> set_option(qcow2::CreateOptions& options, const std::string& text) {
    const size_t equal = text.find('=');
    if (equal == std::string::npos || equal == 0) return Error{EINVAL, fmt::format("option \"{}\": key=value is wanted", text)};
    const std::string key = text.substr(0, equal);
    const std::string value = text.substr(equal + 1);
    const bool on = value == "on" || value == "yes" || value == "true";
    const bool off = value == "off" || value == "no" || value == "false";
    if (key == "compat" && (value == "1.1" || value == "v3")) {
        options.version = 3;
    } else if (key == "compat" && (value == "0.10" || value == "v2")) {
        options.version = 2;
    } else if (key == "cluster_size") {
        const uint64_t bytes = TRY(parse_size(value));
        if (bytes < 512 || bytes > (2U << 20) || (bytes & (bytes - 1)) != 0) return unknown(text);
        options.cluster_bytes = static_cast<uint32_t>(bytes);
    } else if (key == "refcount_bits") {
        const uint64_t bits = TRY(parse_size(value));
        if (bits == 0 || bits > 64 || (bits & (bits - 1)) != 0) return unknown(text);
        options.refcount_bits = static_cast<uint32_t>(bits);
    } else if (key == "extended_l2" && (on || off)) {
        options.extended_l2 = on;
    } else if (key == "lazy_refcounts" && (on || off)) {
        options.lazy_refcounts = on;
    } else if (key == "compression_type" && (value == "zlib" || value == "zstd")) {
        options.compression = value == "zstd" ? qcow2::Compression::zstd : qcow2::Compression::zlib;
    } else {
        return unknown(text);
    }
    return {};
}

}  // namespace

Result<uint64_t> create_qcow2(int fd, const std::string& path, const NewImage& wanted) {
    qcow2::CreateOptions options;
    options.bytes = (wanted.bytes + 511) / 512 * 512;
    for (const std::string& text : wanted.options) TRY(set_option(options, text));
    options.backing_name = wanted.backing;
    options.backing_format = wanted.backing.empty() ? "" : wanted.backing_format == "vhd" ? "vpc" : wanted.backing_format;
    if (!wanted.backing.empty() && options.bytes == 0) {
        const auto reactor = TRY(make_reactor());
        Disk backing = TRY(Disk::open(Spec{wanted.backing_format, TRY(image::resolve_name(path, wanted.backing))}, false, *reactor));
        options.bytes = backing.bytes();
    }
    qcow2::BlockingFile file(fd, path);
    TRY(qcow2::create(file, options));
    return options.bytes;
}

Result<std::string> describe_qcow2(int fd, const std::string& path, nlohmann::ordered_json& json) {
    qcow2::BlockingFile file(fd, path);
    const qcow2::Header header = TRY(qcow2::read_header(file));
    json["virtual-size"] = header.bytes;
    std::string backing;
    if (!header.backing_name.empty()) {
        json["backing-file"] = header.backing_name;
        json["backing-format"] = header.backing_format == "vpc" ? "vhd" : header.backing_format;
        backing = TRY(image::resolve_name(path, header.backing_name));
    }
    nlohmann::ordered_json more;
    more["compat"] = header.version == 3 ? "1.1" : "0.10";
    more["cluster-size"] = header.cluster();
    more["refcount-bits"] = 1U << header.refcount_order;
    more["compression-type"] = header.compression == qcow2::Compression::zstd ? "zstd" : "zlib";
    more["lazy-refcounts"] = (header.compatible & qcow2::kLazyRefcounts) != 0;
    more["extended-l2"] = header.extended();
    more["dirty"] = (header.incompatible & qcow2::incompatible::kDirty) != 0;
    more["corrupt"] = (header.incompatible & qcow2::incompatible::kCorrupt) != 0;
    if (header.has_data_file()) more["data-file"] = header.data_file_name;
    more["snapshots"] = header.snapshots;
    more["bitmaps"] = header.bitmaps;
    json["format-specific"] = std::move(more);
    return backing;
}

Result<Qcow2Check> check_qcow2(int fd, const std::string& path, bool repair) {
    qcow2::BlockingFile file(fd, path);
    const qcow2::CheckReport report = TRY(qcow2::check(file, repair ? qcow2::Repair::all : qcow2::Repair::none));
    Qcow2Check result;
    result.corruptions = report.corruptions - report.corruptions_fixed;
    result.leaks = report.leaks - report.leaks_fixed;
    result.repaired = report.corruptions_fixed + report.leaks_fixed > 0;
    result.messages = report.messages;
    result.json = {{"errors", report.messages},         {"corruptions", result.corruptions},
                   {"corruptions-fixed", report.corruptions_fixed}, {"leaks", result.leaks},
                   {"leaks-fixed", report.leaks_fixed}, {"clusters", report.clusters},
                   {"clusters-used", report.allocated_clusters}, {"clusters-compressed", report.compressed_clusters},
                   {"image-end", report.image_end},     {"repaired", result.repaired}};
    return result;
}

}  // namespace ringback::vdisk
