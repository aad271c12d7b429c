// SPDX-License-Identifier: Apache-2.0
//
// snapshot, bitmap: what a qcow2 image keeps of its own past.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "disk-images/lock.h"
#include "disk-images/qcow2/bitmaps.h"
#include "disk-images/qcow2/check.h"
#include "disk-images/qcow2/snapshots.h"
#include "disk-images/vdisk/commands.h"
#include "disk-images/vdisk/disk.h"

namespace ringback::vdisk {

namespace qcow2 = image::qcow2;

namespace {

// A qcow2 image's file, locked.
struct Locked {
    Spec spec;
    image::File file;
    image::ImageLock lock;
};

Result<Locked> lock_image(const std::string& word, const std::string& format, bool writable) {
    Spec spec = TRY(find_image(word, format));
    if (spec.format != "qcow2") {
        return Error{ENOTSUP, fmt::format("open {}: only qcow2 images have snapshots and bitmaps inside, and this one is {}", spec.path, spec.format)};
    }
    image::File file = TRY(open_file(spec, writable));
    image::ImageLock lock = TRY(image::ImageLock::take(file.fd.get(), spec.path, writable, 0));
    return Locked{std::move(spec), std::move(file), std::move(lock)};
}

nlohmann::ordered_json describe(const qcow2::Snapshot& one) {
    return {{"id", one.id}, {"name", one.name}, {"date-sec", one.seconds}, {"date-nsec", one.nanoseconds},
            {"vm-state-size", one.vm_state_bytes}, {"virtual-size", one.disk_bytes}};
}

// Names come from whoever wrote the image.
std::string shown(std::string text) {
    for (char& c : text) {
        if (static_cast<unsigned char>(c) < 32 || c == 127) c = '?';
    }
    return text;
}

int say(const Output& output, const Spec& spec, const qcow2::Snapshot& one, const char* what) {
    if (output.json) {
        nlohmann::ordered_json json = describe(one);
        json["file"] = spec.path;
        fmt::print("{}\n", json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
    } else if (!output.quiet) {
        fmt::print("{}: snapshot \"{}\" (id {}) {}\n", spec.path, shown(one.name), shown(one.id), what);
    }
    return kDone;
}

}  // namespace

Result<int> snapshot_list(const std::string& file, const std::string& format, const Output& output) {
    const Locked image = TRY(lock_image(file, format, false));
    qcow2::BlockingFile blocking(image.file.fd.get(), image.spec.path);
    const auto list = TRY(qcow2::read_snapshots(blocking, TRY(qcow2::read_header(blocking))));
    if (output.json) {
        nlohmann::ordered_json json = nlohmann::ordered_json::array();
        for (const qcow2::Snapshot& one : list) json.push_back(describe(one));
        fmt::print("{}\n", json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
        return kDone;
    }
    if (list.empty()) return kDone;
    fmt::print("{:<8} {:<24} {:<19} {}\n", "ID", "NAME", "MADE (UTC)", "SIZE");
    for (const qcow2::Snapshot& one : list) {
        fmt::print("{:<8} {:<24} {:%Y-%m-%d %H:%M:%S} {}\n", shown(one.id), shown(one.name), fmt::gmtime(std::time_t{one.seconds}),
                   one.disk_bytes == 0 ? "-" : human_size(one.disk_bytes));
    }
    return kDone;
}

Result<int> snapshot_create(const std::string& file, const std::string& format, const std::string& name, const Output& output) {
    const Locked image = TRY(lock_image(file, format, true));
    qcow2::BlockingFile blocking(image.file.fd.get(), image.spec.path);
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    const auto now_ns = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
    return say(output, image.spec, TRY(qcow2::create_snapshot(blocking, image.file.fd.get(), name, now_ns)), "made");
}

Result<int> snapshot_apply(const std::string& file, const std::string& format, const std::string& name, const Output& output) {
    const Locked image = TRY(lock_image(file, format, true));
    qcow2::BlockingFile blocking(image.file.fd.get(), image.spec.path);
    return say(output, image.spec, TRY(qcow2::apply_snapshot(blocking, image.file.fd.get(), name)), "applied");
}

Result<int> snapshot_delete(const std::string& file, const std::string& format, const std::string& name, const Output& output) {
    const Locked image = TRY(lock_image(file, format, true));
    qcow2::BlockingFile blocking(image.file.fd.get(), image.spec.path);
    return say(output, image.spec, TRY(qcow2::remove_snapshot(blocking, image.file.fd.get(), name)), "deleted");
}

// --- Bitmaps ---

namespace {

nlohmann::ordered_json describe(const qcow2::Bitmap& one) {
    return {{"name", one.name}, {"granularity", uint64_t{1} << one.granularity_bits}, {"recording", one.recording()},
            {"in-use", one.in_use()}};
}

int say(const Output& output, const Spec& spec, const qcow2::Bitmap& one, const char* what) {
    if (output.json) {
        nlohmann::ordered_json json = describe(one);
        json["file"] = spec.path;
        fmt::print("{}\n", json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
    } else if (!output.quiet) {
        fmt::print("{}: bitmap \"{}\" {}\n", spec.path, shown(one.name), what);
    }
    return kDone;
}

}  // namespace

Result<int> bitmap_list(const std::string& file, const std::string& format, const Output& output) {
    const Locked image = TRY(lock_image(file, format, false));
    qcow2::BlockingFile blocking(image.file.fd.get(), image.spec.path);
    const auto list = TRY(qcow2::read_bitmaps(blocking, TRY(qcow2::read_header(blocking))));
    nlohmann::ordered_json json = nlohmann::ordered_json::array();
    for (const qcow2::Bitmap& one : list) json.push_back(describe(one));
    if (output.json) fmt::print("{}\n", json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
    if (output.json || list.empty()) return kDone;
    fmt::print("{:<24} {:<12} {}\n", "NAME", "GRANULARITY", "STATE");
    for (const qcow2::Bitmap& one : list) {
        fmt::print("{:<24} {:<12} {}\n", shown(one.name), human_size(uint64_t{1} << (one.granularity_bits & 63)),
                   one.in_use() ? "in use: not to be trusted" : one.recording() ? "recording" : "at rest");
    }
    return kDone;
}

Result<int> bitmap_add(const std::string& file, const std::string& format, const std::string& name, const std::string& granularity,
                       const Output& output) {
    const Locked image = TRY(lock_image(file, format, true));
    qcow2::BlockingFile blocking(image.file.fd.get(), image.spec.path);
    return say(output, image.spec, TRY(qcow2::add_bitmap(blocking, image.file.fd.get(), name, TRY(parse_size(granularity)))), "begun");
}

Result<int> bitmap_remove(const std::string& file, const std::string& format, const std::string& name, const Output& output) {
    const Locked image = TRY(lock_image(file, format, true));
    qcow2::BlockingFile blocking(image.file.fd.get(), image.spec.path);
    return say(output, image.spec, TRY(qcow2::remove_bitmap(blocking, image.file.fd.get(), name)), "removed");
}

}  // namespace ringback::vdisk
