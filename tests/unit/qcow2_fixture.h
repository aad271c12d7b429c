// SPDX-License-Identifier: Apache-2.0
//
// What the qcow2 tests share: QEMU's tools as the other implementation, an opener without a policy, and a
// disk whose content is compared with an oracle under many requests at a time.
#pragma once

#include <random>

#include "disk-images/qcow2/check.h"
#include "image_fixture.h"

namespace ringback::image::test {

// The exit status; what it printed is in `output`, if wanted.
inline int run_command(const std::string& command, std::string* output = nullptr) {
    FILE* pipe = popen((command + " 2>&1").c_str(), "r");
    REQUIRE(pipe != nullptr);
    std::string text;
    std::array<char, 4096> buffer{};
    while (size_t got = fread(buffer.data(), 1, buffer.size(), pipe))
        text.append(buffer.data(), got);
    const int status = pclose(pipe);
    if (output != nullptr) *output = text;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
inline void must(const std::string& command) {
    std::string output;
    const int status = run_command(command, &output);
    INFO(command << "\n" << output);
    REQUIRE(status == 0);
}
inline bool have_qemu() {
    return run_command("qemu-img --version") == 0;
}

class AnyOpener final : public Opener {
  public:
    bool direct = false;
    std::vector<std::string> asked;
    Result<File> open(const std::string& name, Access access) override {
        asked.push_back(name);
        return open_file(name, access == Access::write, direct);
    }
};

// A disk in some format, on a reactor of its own.
struct FormatDisk : Disk {
    AnyOpener any;
    FormatDisk() = default;
    FormatDisk(const std::string& format, const std::string& path, bool writable = true, bool direct = true) {
        Result<void> opened = open_as(format, path, {.writable = writable}, direct);
        INFO((opened.ok() ? std::string() : opened.error().message));
        REQUIRE(opened.ok());
    }
    Result<void> open_as(const std::string& format, const std::string& path, const OpenOptions& options,
                         bool direct = true) {
        // Memory file systems take no O_DIRECT before Linux 6.6.
        if (direct && !open_file(path, false, true).ok()) direct = false;
        any.direct = direct;
        File file = TRY(open_file(path, options.writable, direct));
        image = TRY(open_image(format, std::move(file), any, *reactor, options));
        return {};
    }
    void close() {
        CHECK(close_and_wait(*image, *reactor) == 0);
        image.reset();
    }
};

struct Mix {
    unsigned writes = 4, reads = 4, discards = 1, zeros = 1, flushes = 1;  // shares
    uint64_t longest = 256 * 1024;
};

// `rounds` batches of 32 requests, anywhere on the disk, of any length, which may overlap each other. A
// sector that several requests of a batch touch, one of them to change it, is not compared until it is
// written again alone: it is read back after the batch and taken as it is.
inline void torture(FormatDisk& disk, std::vector<std::byte>& oracle, uint64_t seed, size_t rounds,
                    Mix mix = {}) {
    constexpr size_t kInFlight = 32;
    if (!disk.image->geometry().discard) mix.discards = 0;
    REQUIRE(disk.image->geometry().bytes == oracle.size());
    const uint64_t sectors = oracle.size() / kSectorSize;
    Memory space = memory(kInFlight * mix.longest);
    std::mt19937_64 random(seed);
    std::vector<uint8_t> readers(sectors);
    std::vector<uint8_t> changers(sectors);
    const unsigned sum = mix.writes + mix.reads + mix.discards + mix.zeros + mix.flushes;
    for (size_t round = 0; round < rounds; ++round) {
        std::vector<std::unique_ptr<Request>> requests;
        std::vector<Io*> batch;
        std::fill(readers.begin(), readers.end(), uint8_t{0});
        std::fill(changers.begin(), changers.end(), uint8_t{0});
        // Some batches all in one corner: neighbours share clusters and tables.
        const uint64_t corner = random() % 2 == 0 ? sectors : std::min<uint64_t>(sectors, 2048);
        const uint64_t corner_at = random() % (sectors - corner + 1);
        for (size_t i = 0; i < kInFlight; ++i) {
            const uint64_t first = corner_at + random() % corner;
            uint64_t count =
                1 + random() % std::min<uint64_t>(sectors - first,
                                                  random() % 2 == 0 ? 16 : mix.longest / kSectorSize);
            std::byte* data = space.get() + i * mix.longest;
            unsigned dice = static_cast<unsigned>(random() % sum);
            Op op = Op::flush;
            if (dice < mix.writes) {
                op = Op::write;
            } else if ((dice -= mix.writes) < mix.reads) {
                op = Op::read;
            } else if ((dice -= mix.reads) < mix.discards) {
                op = Op::discard;
            } else if ((dice -= mix.discards) < mix.zeros) {
                op = Op::zero;
            }
            std::unique_ptr<Request> request;
            if (op == Op::read || op == Op::write) {
                std::vector<iovec> parts;
                uint64_t cut = random() % 2 == 0 ? count : random() % count;
                if (cut > 0) parts.push_back({data, cut * kSectorSize});
                if (cut < count) parts.push_back({data + cut * kSectorSize, (count - cut) * kSectorSize});
                if (op == Op::write) fill(data, count * kSectorSize, random());
                request = std::make_unique<Request>(op, first * kSectorSize, parts);
            } else {
                if (op == Op::flush) count = 0;
                request = std::make_unique<Request>(op, op == Op::flush ? 0 : first * kSectorSize,
                                                    count * kSectorSize);
            }
            for (uint64_t at = first; at < first + count; ++at)
                ++(op == Op::read ? readers : changers)[at];
            batch.push_back(request.get());
            requests.push_back(std::move(request));
        }
        // As several queues would: in a few groups, with turns between them.
        for (size_t i = 0; i < kInFlight; i += 8) {
            disk.image->submit(std::span(batch).subspan(i, 8));
            if (random() % 2 == 0) disk.reactor->turn(false);
        }
        for (size_t i = 0; i < kInFlight; ++i) {
            Request& request = *requests[i];
            disk.wait(request);
            INFO("round " << round << " request " << i << " op " << static_cast<int>(request.op) << " at "
                          << request.offset << " + " << request.length);
            REQUIRE(request.result == 0);
        }
        std::vector<uint64_t> undecided;
        for (size_t i = 0; i < kInFlight; ++i) {
            Request& request = *requests[i];
            const std::byte* data = space.get() + i * mix.longest;
            const uint64_t cluster_note = request.offset;
            for (uint64_t at = 0; at < request.length; at += kSectorSize) {
                const uint64_t sector = (request.offset + at) / kSectorSize;
                std::byte* expected = oracle.data() + sector * kSectorSize;
                if (request.op == Op::read) {
                    if (changers[sector] != 0) continue;
                    INFO("round " << round << " read at " << cluster_note << " + " << at);
                    REQUIRE(std::memcmp(data + at, expected, kSectorSize) == 0);
                } else if (changers[sector] > 1 || request.op == Op::discard) {
                    undecided.push_back(sector);
                } else if (request.op == Op::write) {
                    std::memcpy(expected, data + at, kSectorSize);
                } else {
                    std::memset(expected, 0, kSectorSize);
                }
            }
        }
        // A discarded sector is what it was, or zeros.
        Memory sector_memory = memory(kSectorSize);
        const std::vector<std::byte> zeros(kSectorSize);
        for (const uint64_t sector : undecided) {
            std::byte* expected = oracle.data() + sector * kSectorSize;
            REQUIRE(disk.transfer(Op::read, sector * kSectorSize, sector_memory.get(), kSectorSize) == 0);
            if (changers[sector] == 1) {
                INFO("round " << round << " discarded sector " << sector);
                REQUIRE((std::memcmp(sector_memory.get(), expected, kSectorSize) == 0 ||
                         std::memcmp(sector_memory.get(), zeros.data(), kSectorSize) == 0));
            }
            std::memcpy(expected, sector_memory.get(), kSectorSize);
        }
    }
    Memory all = memory(oracle.size());
    REQUIRE(disk.transfer(Op::read, 0, all.get(), oracle.size()) == 0);
    REQUIRE(std::memcmp(all.get(), oracle.data(), oracle.size()) == 0);
}

// qemu-img agrees: no corruption and no leak, and the same content as the oracle.
inline void judged_by_qemu(const TempDir& dir, const std::string& path,
                           const std::vector<std::byte>& oracle) {
    std::string output;
    int status = run_command("qemu-img check " + path, &output);
    INFO(output);
    REQUIRE(status == 0);
    const std::string raw = dir.path() + "/oracle.raw";
    {
        std::ofstream file(raw, std::ios::binary | std::ios::trunc);
        file.write(reinterpret_cast<const char*>(oracle.data()), static_cast<std::streamsize>(oracle.size()));
        REQUIRE(file.good());
    }
    status = run_command("qemu-img compare -F raw -f qcow2 " + path + " " + raw, &output);
    INFO(output);
    REQUIRE(status == 0);
}

inline void judged_by_us(const std::string& path) {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    qcow2::BlockingFile file(fd.get(), path);
    const auto report = qcow2::check(file, qcow2::Repair::none);
    REQUIRE(report.ok());
    INFO((report.value().messages.empty() ? std::string() : report.value().messages.front()));
    CHECK(report.value().corruptions == 0);
    CHECK(report.value().leaks == 0);
}

}  // namespace ringback::image::test
