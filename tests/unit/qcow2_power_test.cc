// SPDX-License-Identifier: Apache-2.0
//
// Power cuts, and storage that fails, at any point.
//
// Everything the image asks of its file is recorded (uring_recorder.h) while a guest writes, discards and
// flushes. A cut is a moment of that record. What was completed before the issue of a sync that was completed
// before the cut is on the storage; of everything else that was issued before the cut any part may be, whole
// writes and single sectors, whatever their order. For each cut a few such images are made: qemu-img must
// find no corruption (leaks are fair), our own opening must put it in order, and each sector must hold what
// the last flush that was answered promised, or something newer.
//
// Every sector carries the number of the step that wrote it, so what it holds can be told from the sector
// alone.
//
// RINGBACK_POWER_CUTS: how many images to judge (tests/unit/power-cuts: 10200, for the record in
// SPECIFICATION.md).
#include <algorithm>
#include <optional>

#include "qcow2_fixture.h"
#include "uring_recorder.h"

using namespace ringback;
using namespace ringback::image;
using namespace ringback::image::test;

namespace {

constexpr uint64_t kBytes = 2 << 20;
constexpr uint64_t kSectors = kBytes / kSectorSize;
constexpr uint32_t kBacking = 0xbac;  // the step of a sector that only the backing file has

void stamp(std::byte* sector, uint64_t number, uint32_t step) {
    for (size_t at = 0; at < kSectorSize; at += 16) {
        std::memcpy(sector + at, &number, 8);
        std::memcpy(sector + at + 8, &step, 4);
        std::memset(sector + at + 12, 0x5a, 4);
    }
}
// The step, 0 for zeros, or nothing sensible.
std::optional<uint32_t> read_stamp(const std::byte* sector, uint64_t number) {
    std::array<std::byte, kSectorSize> wanted{};
    if (std::memcmp(sector, wanted.data(), kSectorSize) == 0) return 0;
    uint32_t step = 0;
    std::memcpy(&step, sector + 8, 4);
    stamp(wanted.data(), number, step);
    if (std::memcmp(sector, wanted.data(), kSectorSize) != 0) return std::nullopt;
    return step;
}

// What a guest did with a range of sectors, or a flush.
struct Act {
    Op op;
    uint64_t first = 0, count = 0;
    uint32_t step = 0;
    uint64_t submitted = 0, answered = Recorded::kNever;
    int32_t result = 0;
};

struct Stepped : Request {
    Act* act = nullptr;
    Stepped(Op what, uint64_t at, uint64_t bytes) : Request(what, at, bytes) {
        done = [](Io& self, int32_t value) noexcept {
            auto& mine = static_cast<Stepped&>(self);
            ++mine.answers;
            mine.result = mine.act->result = value;
            mine.act->answered = UringRecorder::instance().moment();
        };
    }
};

struct Kind {
    const char* name;
    const char* make;  // a disk.qcow2 of 2 MiB in the current directory, on backing.raw or not
    bool backed;
};
constexpr std::array kKinds{
    Kind{"clusters of 4K", "qemu-img create -q -f qcow2 -o cluster_size=4k disk.qcow2 2M", false},
    Kind{"backing file", "qemu-img create -q -f qcow2 -o cluster_size=16k -F raw -b backing.raw disk.qcow2",
         true},
    Kind{"extended L2 and backing file",
         "qemu-img create -q -f qcow2 -o cluster_size=32k,extended_l2=on -F raw -b backing.raw disk.qcow2",
         true},
    Kind{"clusters of 512", "qemu-img create -q -f qcow2 -o cluster_size=512 disk.qcow2 2M", false},
    Kind{"version 2", "qemu-img create -q -f qcow2 -o compat=0.10,cluster_size=8k disk.qcow2 2M", false},
    Kind{"snapshot of compressed clusters",
         "qemu-img convert -q -c -f raw -O qcow2 -o cluster_size=4k backing.raw disk.qcow2 && qemu-img "
         "snapshot -c one disk.qcow2",
         true},
};

void make(const TempDir& dir, const Kind& kind) {
    std::vector<std::byte> content(kBytes);
    for (uint64_t sector = 0; sector < kSectors; ++sector)
        stamp(content.data() + sector * kSectorSize, sector, kBacking);
    std::ofstream file(dir.path() + "/backing.raw", std::ios::binary);
    file.write(reinterpret_cast<const char*>(content.data()), static_cast<std::streamsize>(kBytes));
    file.close();
    must("cd " + dir.path() + " && " + kind.make);
}

// Batches of requests that do not overlap within a batch. Stops early when the image has failed for good.
std::vector<Act> work(FormatDisk& disk, uint64_t seed, uint32_t steps, uint32_t first_step = kBacking + 1) {
    constexpr size_t kPerBatch = 8;
    constexpr uint64_t kStripe = kSectors / kPerBatch;
    constexpr uint64_t kLongest = 96;
    std::mt19937_64 random(seed);
    std::vector<Act> acts;
    acts.reserve(steps * kPerBatch);
    Memory space = memory(kPerBatch * kLongest * kSectorSize);
    for (uint32_t step = first_step; step < first_step + steps; ++step) {
        std::vector<std::unique_ptr<Stepped>> requests;
        std::vector<Io*> batch;
        for (size_t i = 0; i < kPerBatch; ++i) {
            const auto dice = random() % 10;
            Act act{.op = dice < 6 ? Op::write : dice < 7 ? Op::discard : dice < 8 ? Op::zero : Op::flush};
            act.step = step;
            if (act.op != Op::flush) {
                act.count = 1 + random() % (random() % 3 == 0 ? kLongest : 9);
                act.first = i * kStripe + random() % (kStripe - act.count);
            }
            acts.push_back(act);
            auto request =
                std::make_unique<Stepped>(act.op, act.first * kSectorSize, act.count * kSectorSize);
            request->act = &acts.back();
            if (act.op == Op::write) {
                std::byte* data = space.get() + i * kLongest * kSectorSize;
                for (uint64_t at = 0; at < act.count; ++at)
                    stamp(data + at * kSectorSize, act.first + at, step);
                request->parts = {{data, act.count * kSectorSize}};
                request->vectors = request->parts;
            }
            batch.push_back(request.get());
            requests.push_back(std::move(request));
        }
        for (const auto& request : requests)
            request->act->submitted = UringRecorder::instance().moment();
        disk.image->submit(batch);
        for (const auto& request : requests)
            disk.wait(*request);
    }
    return acts;
}

// The steps that a sector may hold at the moment `cut`. Steps of one sector follow each other.
struct Allowed {
    std::vector<uint32_t> steps;
};
std::vector<Allowed> allowed_at(const std::vector<Act>& acts, uint64_t cut, bool backed) {
    uint64_t flushed = 0;
    for (const Act& act : acts) {
        if (act.op == Op::flush && act.answered <= cut && act.result == 0)
            flushed = std::max(flushed, act.submitted);
    }
    std::vector<Allowed> allowed(kSectors, Allowed{{backed ? kBacking : 0}});
    for (const Act& act : acts) {
        if (act.op == Op::flush || act.submitted > cut) continue;
        const bool sure = act.result == 0 && act.answered < flushed && act.op != Op::discard;
        for (uint64_t at = act.first; at < act.first + act.count; ++at) {
            if (sure) allowed[at].steps.clear();
            allowed[at].steps.push_back(act.op == Op::write ? act.step : 0);
        }
    }
    return allowed;
}

void check_content(const std::string& path, const std::vector<Allowed>& allowed) {
    FormatDisk disk("qcow2", path);
    Memory all = memory(kBytes);
    REQUIRE(disk.transfer(Op::read, 0, all.get(), kBytes) == 0);
    for (uint64_t sector = 0; sector < kSectors; ++sector) {
        const auto step = read_stamp(all.get() + sector * kSectorSize, sector);
        const auto& steps = allowed[sector].steps;
        const bool fine = step && std::find(steps.begin(), steps.end(), *step) != steps.end();
        INFO("sector " << sector << " holds step " << (step ? static_cast<int64_t>(*step) : -1) << ", wanted "
                       << steps.front() << " or one of " << steps.size() - 1 << " later");
        REQUIRE(fine);
    }
    disk.close();
}

std::vector<std::byte> load(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    const auto* first = reinterpret_cast<const std::byte*>(bytes.data());
    return {first, first + bytes.size()};
}

void put(std::vector<std::byte>& image, const Recorded& one, uint64_t from, uint64_t to) {
    const bool hole = one.kind == Recorded::Kind::hole;
    if (one.offset + to > image.size()) {
        if (hole) to = image.size() > one.offset ? image.size() - one.offset : 0;
        if (!hole) image.resize(one.offset + to);
    }
    if (from >= to) return;
    if (hole) {
        std::memset(image.data() + one.offset + from, 0, to - from);
    } else {
        std::memcpy(image.data() + one.offset + from, one.bytes.data() + from, to - from);
    }
}

// The storage after a cut: `how` is what of the undecided it kept.
std::vector<std::byte> storage_at(std::vector<std::byte> image, const std::vector<Recorded>& log,
                                  uint64_t cut, unsigned how, std::mt19937_64& random) {
    uint64_t synced = 0;
    for (const Recorded& one : log) {
        if (one.kind == Recorded::Kind::sync && one.completed <= cut) synced = std::max(synced, one.issued);
    }
    for (const Recorded& one : log) {
        if (one.kind == Recorded::Kind::sync || one.issued > cut) continue;
        const bool sure = one.completed < synced;
        if (sure || how == 1) {
            put(image, one, 0, one.length);
        } else if (how == 2 && random() % 2 == 0) {
            put(image, one, 0, one.length);
        } else if (how == 3) {
            for (uint64_t at = 0; at < one.length; at += kSectorSize) {
                if (random() % 2 == 0) put(image, one, at, std::min(one.length, at + kSectorSize));
            }
        }
    }
    return image;
}

uint64_t cuts_wanted(uint64_t usual) {
    const char* given = std::getenv("RINGBACK_POWER_CUTS");
    return given != nullptr ? std::strtoull(given, nullptr, 10) : usual;
}

}  // namespace

TEST_CASE("qcow2: a power cut at any moment leaves a whole image with all flushed data") {
    if (!have_qemu()) SKIP("no qemu-img here");
    auto& recorder = UringRecorder::instance();
    const uint64_t per_kind = cuts_wanted(120) / kKinds.size() + 1;
    for (const Kind& kind : kKinds) {
        DYNAMIC_SECTION(kind.name) {
            TempDir dir;
            make(dir, kind);
            const std::string path = dir.path() + "/disk.qcow2";
            std::mt19937_64 random(kBytes + per_kind);
            uint64_t judged = 0;
            for (uint64_t seed = 1; judged < per_kind; ++seed) {
                must("cd " + dir.path() + " && rm -f disk.qcow2 && " + kind.make);
                std::vector<std::byte> before;
                std::vector<Act> acts;
                {
                    FormatDisk disk("qcow2", path);
                    before = load(path);
                    recorder.record(true);
                    acts = work(disk, seed, 24);
                    disk.close();
                    recorder.record(false);
                }
                const uint64_t end = recorder.moment();
                const uint64_t begin = recorder.log().front().issued;
                const std::string cut_path = dir.path() + "/cut.qcow2";
                for (uint64_t i = 0; i < 200 && judged < per_kind; ++i, ++judged) {
                    const uint64_t cut = begin + random() % (end - begin);
                    const unsigned how = static_cast<unsigned>(random() % 4);
                    const auto image = storage_at(before, recorder.log(), cut, how, random);
                    std::ofstream file(cut_path, std::ios::binary | std::ios::trunc);
                    file.write(reinterpret_cast<const char*>(image.data()),
                               static_cast<std::streamsize>(image.size()));
                    file.close();
                    std::string output;
                    const int status = run_command("qemu-img check " + cut_path, &output);
                    INFO("seed " << seed << ", cut at " << cut - begin << " of " << end - begin << ", kept "
                                 << how << "\n"
                                 << output);
                    REQUIRE((status == 0 || status == 3));
                    check_content(cut_path, allowed_at(acts, cut, kind.backed));
                    if (judged % 10 == 0) must("qemu-img check " + cut_path);
                }
            }
        }
    }
}

TEST_CASE("qcow2: storage that fails at any point costs the requests that met it, never the image") {
    if (!have_qemu()) SKIP("no qemu-img here");
    auto& recorder = UringRecorder::instance();
    for (const Kind& kind : kKinds) {
        DYNAMIC_SECTION(kind.name) {
            TempDir dir;
            make(dir, kind);
            const std::string path = dir.path() + "/disk.qcow2";
            uint64_t step = cuts_wanted(0) >= 10000 ? 1 : 37;
            bool more = true;
            for (uint64_t point = 1; more; point += step) {
                const int error = point % 3 == 0 ? 0 : point % 3 == 1 ? ENOSPC : EIO;
                INFO("request " << point << ", error " << error);
                must("cd " + dir.path() + " && rm -f disk.qcow2 && " + kind.make);
                std::vector<Act> acts;
                {
                    FormatDisk disk("qcow2", path);
                    recorder.fail(point, error, error == 0);
                    acts = work(disk, 4711, 8);
                    (void)close_and_wait(*disk.image, *disk.reactor);
                    more = recorder.happened();
                    recorder.fail(0, 0);
                    disk.image.reset();
                }
                size_t failed = 0;
                for (const Act& act : acts)
                    failed += act.result != 0 ? 1 : 0;
                if (error == 0) CHECK(failed == 0);
                std::string output;
                const int status = run_command("qemu-img check " + path, &output);
                INFO(output);
                REQUIRE((status == 0 || status == 3));
                // What was answered with success is there, though no power was cut: as if all had been
                // flushed.
                auto as_flushed = acts;
                as_flushed.push_back(
                    {.op = Op::flush, .submitted = Recorded::kNever - 1, .answered = Recorded::kNever - 1});
                check_content(path, allowed_at(as_flushed, Recorded::kNever - 1, kind.backed));
                must("qemu-img check " + path);
            }
        }
    }
}
