// SPDX-License-Identifier: Apache-2.0
#include "disk-images/vdisk/spec.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstring>

#include "disk-images/lvm/lvm.h"

namespace ringback::vdisk {

namespace {

struct Name {
    const char* text;
    const char* format;
};
constexpr std::array kFormats{Name{"raw", "raw"}, Name{"qcow2", "qcow2"}, Name{"vhd", "vhd"}, Name{"vpc", "vhd"}};
constexpr std::array kEndings{Name{".raw", "raw"},   Name{".img", "raw"}, Name{".iso", "raw"},
                              Name{".qcow2", "qcow2"}, Name{".vhd", "vhd"}, Name{".vpc", "vhd"},
                              Name{".vmdk", "vmdk"}, Name{".vhdx", "vhdx"}, Name{".vdi", "vdi"},
                              Name{".qed", "qed"},   Name{".luks", "luks"}};
constexpr std::array kForeign{"vmdk", "vhdx", "vdi", "qed", "luks", "qcow"};

std::string lower(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
    return text;
}

Error foreign(const std::string& path, const std::string& format) {
    if (format == "luks") {
        return Error{ENOTSUP, fmt::format("open {}: LUKS encryption is not supported; open it with cryptsetup, or convert it: "
                                          "qemu-img convert --image-opts driver=luks,file.filename={},key-secret=... -O qcow2 NEW",
                                          path, path)};
    }
    return Error{ENOTSUP, fmt::format("open {}: {} images are not supported; convert it: qemu-img convert -f {} -O qcow2 {} NEW",
                                      path, format, format, path)};
}

bool is_foreign(const std::string& format) {
    return std::any_of(kForeign.begin(), kForeign.end(), [&](const char* one) { return format == one; });
}

Result<std::string> known(const std::string& path, const std::string& format) {
    const std::string wanted = lower(format);
    for (const Name& name : kFormats) {
        if (wanted == name.text) return std::string(name.format);
    }
    if (is_foreign(wanted)) return foreign(path, wanted);
    return Error{EINVAL, fmt::format("open {}: unknown format \"{}\" (known: raw, qcow2, vhd)", path, format)};
}

std::string by_ending(const std::string& path) {
    const std::string name = lower(path);
    for (const Name& ending : kEndings) {
        if (name.ends_with(ending.text)) return ending.format;
    }
    return {};
}

// The scheme in front, if there is one.
Result<Spec> by_scheme(const std::string& word) {
    if (word.starts_with("lvm:")) {
        const image::lvm::Name name = TRY(image::lvm::parse_name(word.substr(4)));
        const image::lvm::Lvm lvm;
        const image::lvm::Volume volume = TRY(lvm.activate(name, false));  // the locks decide
        return Spec{"raw", volume.path, true};
    }
    for (const Name& name : kFormats) {
        const std::string scheme = std::string(name.text) + ":";
        if (word.starts_with(scheme)) return Spec{name.format, word.substr(scheme.size())};
    }
    for (const char* name : kForeign) {
        const std::string scheme = std::string(name) + ":";
        if (word.starts_with(scheme)) return foreign(word.substr(scheme.size()), name);
    }
    return Spec{};
}

}  // namespace

std::string looks_like(const std::string& path) {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    std::array<char, 512> data{};
    if (!fd || pread(fd.get(), data.data(), data.size(), 0) < 8) return {};
    const auto begins = [&](std::string_view magic) { return std::memcmp(data.data(), magic.data(), magic.size()) == 0; };
    if (begins(std::string_view("QFI\xfb\0\0\0\1", 8))) return "qcow";
    if (begins("QFI\xfb")) return "qcow2";
    if (begins("conectix")) return "vhd";
    if (begins("KDMV") || begins("COWD") || begins("# Disk DescriptorFile")) return "vmdk";
    if (begins("vhdxfile")) return "vhdx";
    if (begins("LUKS\xba\xbe")) return "luks";
    if (begins(std::string_view("QED\0", 4))) return "qed";
    if (std::memcmp(data.data() + 64, "\x7f\x10\xda\xbe", 4) == 0) return "vdi";
    struct stat about {};
    if (fstat(fd.get(), &about) == 0 && S_ISREG(about.st_mode) && about.st_size >= 512 &&
        pread(fd.get(), data.data(), data.size(), (about.st_size - 512) / 512 * 512) == 512 && begins("conectix")) {
        return "vhd";
    }
    return {};
}

Result<Spec> find_image(const std::string& word, const std::string& format) {
    if (!format.empty() && !word.starts_with("lvm:")) return Spec{TRY(known(word, format)), word};
    if (Spec spec = TRY(by_scheme(word)); !spec.path.empty()) {
        if (!format.empty()) spec.format = TRY(known(word, format));
        return spec;
    }
    struct stat about {};
    if (stat(word.c_str(), &about) != 0) return os_error("open " + word);
    std::string named = S_ISBLK(about.st_mode) ? "raw" : by_ending(word);
    const std::string seen = looks_like(word);
    if (named.empty()) {
        const std::string hint = seen.empty() ? "" : fmt::format("; it begins like {}", seen);
        if (is_foreign(seen)) return foreign(word, seen);
        return Error{EINVAL, fmt::format("open {}: its name tells no format{}; say it: --format raw, qcow2 or vhd", word, hint)};
    }
    if (is_foreign(named)) return foreign(word, named);
    if (!seen.empty() && seen != named) {
        return Error{EINVAL, fmt::format("open {}: it is named like {} and looks like {}; say which it is with --format", word,
                                         named, seen)};
    }
    return Spec{named, word};
}

Result<Spec> name_image(const std::string& word, const std::string& format) {
    if (!format.empty() && !word.starts_with("lvm:")) return Spec{TRY(known(word, format)), word};
    if (Spec spec = TRY(by_scheme(word)); !spec.path.empty()) {
        if (!format.empty()) spec.format = TRY(known(word, format));
        return spec;
    }
    struct stat about {};
    const bool device = stat(word.c_str(), &about) == 0 && S_ISBLK(about.st_mode);
    const std::string named = device ? "raw" : by_ending(word);
    if (is_foreign(named)) return foreign(word, named);
    if (named.empty()) return Error{EINVAL, fmt::format("make {}: its name tells no format; say it: raw, qcow2 or vhd", word)};
    return Spec{named, word};
}

Result<uint64_t> parse_size(const std::string& text) {
    const Error bad{EINVAL, fmt::format("\"{}\" is no size (512, 64M, 1.5G, ...)", text)};
    size_t used = 0;
    double number = 0;
    try {
        if (text.empty() || (std::isdigit(static_cast<unsigned char>(text.front())) == 0)) return bad;
        // Plain bytes exactly: a double has 53 bits.
        const unsigned long long whole = std::stoull(text, &used);
        if (used == text.size()) return uint64_t{whole};
        number = std::stod(text, &used);
    } catch (const std::exception&) {
        return bad;
    }
    std::string unit = lower(text.substr(used));
    if (unit.ends_with("ib")) {
        unit.resize(unit.size() - 2);
    } else if (unit.size() == 2 && unit[1] == 'b') {
        unit.resize(1);
    }
    static const std::string kUnits = "bkmgtpe";
    const size_t power = unit.size() == 1 ? kUnits.find(unit[0]) : std::string::npos;
    if (power == std::string::npos) return bad;
    const double bytes = number * std::pow(1024.0, static_cast<double>(power));
    if (!(bytes < 9.2e18)) return bad;
    return static_cast<uint64_t>(bytes);
}

std::string human_size(uint64_t bytes) {
    static constexpr std::array kUnits{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    auto value = static_cast<double>(bytes);
    size_t unit = 0;
    while (value >= 1024 && unit + 1 < kUnits.size()) {
        value /= 1024;
        ++unit;
    }
    if (value == std::floor(value)) return fmt::format("{:.0f} {}", value, kUnits[unit]);
    return fmt::format("{:.{}f} {}", value, value < 10 ? 2 : 1, kUnits[unit]);
}

Result<image::File> open_file(const Spec& spec, bool writable) {
    struct stat about {};
    // Opening a FIFO would wait, a tape would wind: looked at before.
    if (stat(spec.path.c_str(), &about) != 0) return os_error("open " + spec.path);
    if (!S_ISREG(about.st_mode) && !S_ISBLK(about.st_mode)) {
        return Error{EINVAL, fmt::format("open {}: it is {}; an image is a regular file or a block device", spec.path,
                                         S_ISDIR(about.st_mode) ? "a directory" : "something else")};
    }
    UniqueFd fd(::open(spec.path.c_str(), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC));
    if (!fd) return os_error(fmt::format("open {}{}", spec.path, writable ? " for writing" : ""));
    return image::File{std::move(fd), writable, false, spec.path};
}

}  // namespace ringback::vdisk
