// SPDX-License-Identifier: Apache-2.0
//
// Commands that look at images: info, check, map, compare.
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "disk-images/chain.h"
#include "disk-images/lock.h"
#include "disk-images/vdisk/commands.h"
#include "disk-images/vdisk/copy.h"
#include "disk-images/vdisk/qcow2_commands.h"
#include "disk-images/vhd/image.h"

namespace ringback::vdisk {

namespace {

using Json = nlohmann::ordered_json;
using image::Extent;

void print_json(const Json& json) { fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace)); }

// Names and creators come from whoever wrote the image; a terminal shall not obey them.
std::string printable(const std::string& text) {
    std::string result;
    for (const char c : text) {
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
            result += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
        } else {
            result.push_back(c);
        }
    }
    return result;
}

struct Described {
    Json json;
    std::string backing;  // "" for none
};

Result<void> describe_vhd(const image::SyncIo& file, Described& described) {
    const image::vhd::Layout layout = TRY(image::vhd::read_layout(file));
    const image::vhd::Footer& footer = layout.footer;
    Json json;
    json["subformat"] = image::vhd::type_name(footer.type);
    json["creator"] = printable(std::string(footer.creator.data(), footer.creator.size()).c_str());
    json["id"] = image::vhd::to_text(footer.id);
    json["geometry"] = fmt::format("{}/{}/{}", footer.chs.cylinders, footer.chs.heads, footer.chs.sectors);
    if (layout.dynamic()) {
        const image::vhd::Table table = TRY(image::vhd::Table::load(file, layout));
        json["block-size"] = layout.header.block_bytes;
        json["blocks"] = table.blocks();
        json["blocks-used"] = table.used_blocks();
    }
    if (footer.type == image::vhd::Type::differencing) {
        const std::string name = TRY(image::vhd::parent_name(file, layout));
        described.backing = TRY(image::resolve_name(file.name(), name));
        described.json["backing-file"] = printable(name);
        described.json["backing-format"] = "vhd";
        json["parent-id"] = image::vhd::to_text(layout.header.parent_id);
    }
    if (!layout.footer_at_end) json["last-footer"] = "missing";
    described.json["virtual-size"] = footer.disk_bytes();
    described.json["format-specific"] = std::move(json);
    return {};
}

Result<Described> describe(const Spec& spec) {
    const image::File file = TRY(open_file(spec, false));
    const auto lock = TRY(image::ImageLock::take(file.fd.get(), spec.path, false, 0));
    struct stat about {};
    if (fstat(file.fd.get(), &about) != 0) return os_error("look at " + spec.path);
    const image::SyncIo sync(file.fd.get(), spec.path);
    Described described;
    described.json["filename"] = spec.path;
    described.json["format"] = spec.format;
    described.json["virtual-size"] = 0;
    described.json["actual-size"] = S_ISBLK(about.st_mode) ? TRY(sync.size()) : static_cast<uint64_t>(about.st_blocks) * 512;
    if (spec.format == "raw") {
        described.json["virtual-size"] = TRY(sync.size()) / 512 * 512;
    } else if (spec.format == "vhd") {
        TRY(describe_vhd(sync, described));
    } else {
        described.backing = TRY(describe_qcow2(file.fd.get(), spec.path, described.json));
    }
    return described;
}

std::string value_text(const Json& value) { return value.is_string() ? value.get<std::string>() : value.dump(); }

void print_described(const Json& json) {
    const auto bytes = [&](const char* key) { return json[key].get<uint64_t>(); };
    fmt::print("image: {}\nfile format: {}\nvirtual size: {} ({} bytes)\ndisk size: {}\n",
               printable(json["filename"].get<std::string>()), json["format"].get<std::string>(),
               human_size(bytes("virtual-size")), bytes("virtual-size"), human_size(bytes("actual-size")));
    for (const char* key : {"backing-file", "backing-format"}) {
        if (json.contains(key)) fmt::print("{}: {}\n", key, value_text(json[key]));
    }
    if (!json.contains("format-specific")) return;
    for (const auto& [key, value] : json["format-specific"].items()) fmt::print("{}: {}\n", key, value_text(value));
}

}  // namespace

Result<int> info(const std::string& file, const std::string& format, bool chain, const Output& output) {
    Spec spec = TRY(find_image(file, format));
    Json all = Json::array();
    for (unsigned depth = 0; depth < image::Chain::kMaxDepth; ++depth) {
        Described described = TRY(describe(spec));
        spec = Spec{described.json.value("backing-format", ""), described.backing};
        all.push_back(std::move(described.json));
        if (!chain || spec.path.empty()) break;
        if (std::any_of(all.begin(), all.end(), [&](const Json& one) { return one["filename"] == spec.path; })) {
            return Error{ELOOP, fmt::format("open {}: the chain comes back to it", spec.path)};
        }
    }
    if (output.json) {
        print_json(chain ? all : all.front());
    } else {
        for (size_t i = 0; i < all.size(); ++i) {
            if (i > 0) fmt::print("\n");
            print_described(all[i]);
        }
    }
    return kDone;
}

Result<int> check(const std::string& file, const std::string& format, bool repair, const Output& output) {
    const Spec spec = TRY(find_image(file, format));
    const image::File opened = TRY(open_file(spec, repair));
    const auto lock = TRY(image::ImageLock::take(opened.fd.get(), spec.path, repair, 0));
    const image::SyncIo sync(opened.fd.get(), spec.path);
    Json json{{"filename", spec.path}, {"format", spec.format}};
    if (spec.format == "raw") {
        json["check-errors"] = 0;
        if (output.json) {
            print_json(json);
        } else if (!output.quiet) {
            fmt::print("{}: a raw image has no structure to check\n", spec.path);
        }
        return kDone;
    }
    if (spec.format == "qcow2") {
        const Qcow2Check found = TRY(check_qcow2(opened.fd.get(), spec.path, repair));
        json.update(found.json);
        if (output.json) {
            print_json(json);
        } else {
            for (const std::string& message : found.messages) fmt::print("{}\n", printable(message));
            if (!output.quiet) {
                fmt::print("{}: {}{} corruptions, {} leaked clusters\n", spec.path, found.repaired ? "repaired; " : "",
                           found.corruptions, found.leaks);
            }
        }
        return found.corruptions > 0 ? kNo : found.leaks > 0 ? kLeaks : kDone;
    }
    const image::vhd::CheckReport report = TRY(image::vhd::check(sync, repair));
    json["errors"] = report.errors;
    json["corruptions"] = report.repaired ? 0 : report.errors.size();
    json["leaked-bytes"] = report.leaked_bytes;
    json["blocks"] = report.blocks;
    json["blocks-used"] = report.used_blocks;
    json["repaired"] = report.repaired;
    if (output.json) {
        print_json(json);
    } else {
        for (const std::string& error : report.errors) fmt::print("error: {}\n", error);
        if (report.leaked_bytes > 0) fmt::print("leaked: {} bytes of the file are used by nothing\n", report.leaked_bytes);
        if (report.repaired) fmt::print("repaired\n");
        if (!output.quiet) {
            fmt::print("{}: {} of {} blocks in use, {}\n", spec.path, report.used_blocks, report.blocks,
                       report.errors.empty() || report.repaired ? "no errors" : "damaged");
        }
    }
    if (!report.errors.empty() && !report.repaired) return kNo;
    return report.leaked_bytes > 0 ? kLeaks : kDone;
}

Result<int> map(const std::string& file, const std::string& format, const Output& output) {
    const Spec spec = TRY(find_image(file, format));
    const auto reactor = TRY(make_reactor());
    Disk disk = TRY(Disk::open(spec, false, *reactor));
    Json json = Json::array();
    if (!output.json) fmt::print("{:>16} {:>16} {:>16}  {}\n", "offset", "length", "in file at", "what");
    for (uint64_t at = 0; at < disk.bytes();) {
        Extent extent = TRY(disk->extent(at));
        // What follows on in disk and file is told as one.
        while (at + extent.length < disk.bytes()) {
            const Extent next = TRY(disk->extent(at + extent.length));
            const bool placed = extent.host_offset != Extent::kNowhere;
            if (next.kind != extent.kind || next.here != extent.here || next.compressed != extent.compressed ||
                next.host_offset != (placed ? extent.host_offset + extent.length : Extent::kNowhere)) {
                break;
            }
            extent.length += next.length;
        }
        const bool data = extent.kind == Extent::Kind::data;
        const bool placed = extent.host_offset != Extent::kNowhere;
        if (output.json) {
            Json one{{"start", at}, {"length", extent.length}, {"data", data}, {"zero", !data}, {"here", extent.here},
                     {"compressed", extent.compressed}};
            if (placed) one["offset"] = extent.host_offset;
            json.push_back(std::move(one));
        } else if (data) {
            fmt::print("{:>16} {:>16} {:>16}  {}{}\n", at, extent.length, placed ? std::to_string(extent.host_offset) : "-",
                       extent.compressed ? "compressed data" : "data", extent.here ? "" : ", below");
        }
        at += extent.length;
    }
    if (output.json) print_json(json);
    return kDone;
}

Result<int> compare(const std::string& first, const std::string& first_format, const std::string& second,
                    const std::string& second_format, bool strict, const Output& output) {
    const Spec one = TRY(find_image(first, first_format));
    const Spec other = TRY(find_image(second, second_format));
    const auto reactor = TRY(make_reactor());
    Disk a = TRY(Disk::open(one, false, *reactor));
    Disk b = TRY(Disk::open(other, false, *reactor));
    const auto tell = [&](bool same, const std::string& text, Json more) {
        more["identical"] = same;
        if (output.json) {
            print_json(more);
        } else if (!output.quiet) {
            fmt::print("{}\n", text);
        }
        return same ? kDone : kNo;
    };
    const uint64_t common = std::min(a.bytes(), b.bytes());
    if (strict && a.bytes() != b.bytes()) {
        return tell(false, fmt::format("the sizes differ: {} and {} bytes", a.bytes(), b.bytes()), {{"sizes-differ", true}});
    }
    const auto differs = [&](uint64_t at) {
        return tell(false, fmt::format("the contents differ at {}", at), {{"first-difference", at}});
    };
    if (const auto at = TRY(first_difference(a, b, *reactor, common, progress_bar(output)))) return differs(*at);
    Disk& longer = a.bytes() > b.bytes() ? a : b;
    if (longer.bytes() > common) {
        if (const auto at = TRY(first_nonzero(longer, *reactor, common, progress_bar(output)))) return differs(*at);
        return tell(true, fmt::format("identical; {} is longer, by zeros", longer.spec().path), {{"sizes-differ", true}});
    }
    return tell(true, "identical", Json::object());
}

}  // namespace ringback::vdisk
