// SPDX-License-Identifier: Apache-2.0
//
// What the VHD tests share: making files, opening them as disks, asking QEMU's tool, and a reader that knows the format
// in the simplest way and nothing of ours.
#pragma once

#include <sys/wait.h>

#include <catch2/matchers/catch_matchers_string.hpp>

#include "disk-images/vhd/image.h"
#include "image_fixture.h"

namespace ringback::image::test {

class FileOpener final : public Opener {
  public:
    Result<File> open(const std::string& name, Access access) override {
        return open_file(name, access == Access::write, false);
    }
};

struct VhdDisk : Disk {
    FileOpener files;
    VhdDisk() = default;
    explicit VhdDisk(const std::string& path, bool writable = true, bool direct = true) {
        Result<void> opened = open(path, {.writable = writable}, direct);
        INFO((opened.ok() ? std::string() : opened.error().message));
        REQUIRE(opened.ok());
    }
    ~VhdDisk() {
        if (image) close();
    }
    Result<void> open(const std::string& path, const OpenOptions& options, bool direct) {
        File file = TRY(open_file(path, options.writable, direct));
        image = TRY(open_image("vhd", std::move(file), files, *reactor, options));
        return {};
    }
    void close() {
        CHECK(close_and_wait(*image, *reactor) == 0);
        image.reset();
    }
    void abandon() { image.reset(); }  // as after a kill
    int32_t zero(uint64_t offset, uint64_t bytes) {
        Request request(Op::zero, offset, bytes);
        return run(request);
    }
    std::vector<std::byte> content() {
        const size_t bytes = image->geometry().bytes;
        Memory all = memory(bytes);
        REQUIRE(transfer(Op::read, 0, all.get(), bytes) == 0);
        return {all.get(), all.get() + bytes};
    }
};

inline uint64_t make_vhd(const std::string& path, const vhd::CreateOptions& options) {
    const UniqueFd fd(::open(path.c_str(), O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600));
    REQUIRE(fd);
    const SyncIo file(fd.get(), path);
    auto made = vhd::create(file, options);
    INFO((made.ok() ? std::string() : made.error().message));
    REQUIRE(made.ok());
    return made.value();
}

inline vhd::Layout layout_of(const std::string& path) {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    REQUIRE(fd);
    return vhd::read_layout(SyncIo(fd.get(), path)).value();
}

// A child of `parent`, in the same directory.
inline void make_child(const std::string& path, const std::string& parent, uint32_t block_bytes, uint64_t bytes = 0) {
    const vhd::Footer footer = layout_of(parent).footer;
    vhd::CreateOptions options;
    options.bytes = bytes != 0 ? bytes : footer.disk_bytes();
    options.type = vhd::Type::differencing;
    options.block_bytes = block_bytes;
    options.parent = parent.substr(parent.rfind('/') + 1);
    options.parent_id = footer.id;
    options.parent_timestamp = footer.timestamp;
    make_vhd(path, options);
}

inline vhd::CheckReport check_vhd(const std::string& path, bool repair = false) {
    const UniqueFd fd(::open(path.c_str(), (repair ? O_RDWR : O_RDONLY) | O_CLOEXEC));
    REQUIRE(fd);
    return vhd::check(SyncIo(fd.get(), path), repair).value();
}

inline int shell(const std::string& command) {
    const int status = std::system(command.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

inline std::string output_of(const std::string& command) {
    std::string text;
    FILE* pipe = ::popen(command.c_str(), "r");
    REQUIRE(pipe != nullptr);
    std::array<char, 4096> buffer{};
    while (const size_t got = fread(buffer.data(), 1, buffer.size(), pipe)) text.append(buffer.data(), got);
    pclose(pipe);
    return text;
}

inline void write_file(const std::string& path, const std::vector<std::byte>& data) {
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file.write(reinterpret_cast<const char*>(data.data()), static_cast<std::streamsize>(data.size()));
    REQUIRE(file.good());
}

inline std::vector<std::byte> read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    REQUIRE(file);
    std::vector<std::byte> data(static_cast<size_t>(file.tellg()));
    file.seekg(0);
    file.read(reinterpret_cast<char*>(data.data()), static_cast<std::streamsize>(data.size()));
    return data;
}

// QEMU reads in `path` what `expected` holds.
inline void check_with_qemu(const TempDir& dir, const std::string& path, const std::vector<std::byte>& expected) {
    const std::string raw = dir.path() + "/expected.raw";
    write_file(raw, expected);
    CHECK(shell("qemu-img compare -q -f raw -F vpc " + raw + " " + path) == 0);
    CHECK_THAT(output_of("qemu-img info --output=json -f vpc " + path),
               Catch::Matchers::ContainsSubstring("\"virtual-size\": " + std::to_string(expected.size()) + ","));
}

// A dynamic or differencing VHD read by the letter of the specification, over what lies below.
inline std::vector<std::byte> read_plainly(const std::string& path, std::vector<std::byte> below) {
    const std::vector<std::byte> file = read_file(path);
    const auto number = [&](size_t at, size_t bytes) {
        uint64_t value = 0;
        for (size_t i = 0; i < bytes; ++i) value = value << 8 | std::to_integer<uint64_t>(file.at(at + i));
        return value;
    };
    const uint64_t size = number(48, 8);
    const uint64_t header = number(16, 8);
    const uint64_t table = number(header + 16, 8);
    const uint64_t block = number(header + 32, 4);
    const uint64_t bitmap = (block / 512 / 8 + 511) / 512 * 512 + (block / 512 / 8 == 0 ? 512 : 0);
    below.resize(size);
    for (uint64_t sector = 0; sector < size / 512; ++sector) {
        const uint64_t at = sector * 512 / block;
        const uint64_t entry = number(table + at * 4, 4);
        const uint64_t inside = sector * 512 % block;
        if (entry == 0xffffffff) continue;
        if ((number(entry * 512 + inside / 512 / 8, 1) & (0x80U >> (inside / 512 % 8))) == 0) continue;
        std::memcpy(below.data() + sector * 512, file.data() + entry * 512 + bitmap + inside, 512);
    }
    return below;
}

}  // namespace ringback::image::test
