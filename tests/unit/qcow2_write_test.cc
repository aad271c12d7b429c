// SPDX-License-Identifier: Apache-2.0
//
// Random requests on images of every kind, judged by qemu-img after a clean close.
#include "disk-images/qcow2/create.h"
#include "qcow2_fixture.h"

using namespace ringback;
using namespace ringback::image;
using namespace ringback::image::test;

namespace {

constexpr uint64_t kMiB = 1 << 20;

struct Kind {
    const char* name;
    const char* options;
    uint64_t bytes;
};
constexpr std::array kKinds{
    Kind{"v3", "compat=1.1", 64 * kMiB},
    Kind{"v2", "compat=0.10", 64 * kMiB},
    Kind{"clusters of 512", "cluster_size=512", 4 * kMiB},
    Kind{"clusters of 4K", "cluster_size=4096", 32 * kMiB + 512},
    Kind{"clusters of 2M", "cluster_size=2M", 64 * kMiB},
    Kind{"extended L2", "extended_l2=on", 64 * kMiB},
    Kind{"extended L2, 16K", "extended_l2=on,cluster_size=16k", 32 * kMiB + 5 * 512},
    Kind{"refcounts of 1 bit", "refcount_bits=1", 32 * kMiB},
    Kind{"refcounts of 64 bits", "refcount_bits=64,cluster_size=1k", 8 * kMiB},
    Kind{"lazy refcounts", "lazy_refcounts=on", 32 * kMiB},
    Kind{"zstd", "compression_type=zstd", 32 * kMiB},
};

}  // namespace

TEST_CASE("qcow2: random overlapping requests on images that qemu-img made") {
    if (!have_qemu()) SKIP("no qemu-img here");
    for (const Kind& kind : kKinds) {
        DYNAMIC_SECTION(kind.name) {
            TempDir dir;
            const std::string path = dir.path() + "/disk.qcow2";
            must("qemu-img create -q -f qcow2 -o " + std::string(kind.options) + " " + path + " " +
                 std::to_string(kind.bytes));
            std::vector<std::byte> oracle(kind.bytes);
            for (uint64_t round = 0; round < 2; ++round) {
                FormatDisk disk("qcow2", path);
                torture(disk, oracle, round * 100 + kind.bytes, 12);
                disk.close();
                judged_by_us(path);
                judged_by_qemu(dir, path, oracle);
            }
        }
    }
}

TEST_CASE("qcow2: backing files, compressed clusters and snapshots keep what is not written") {
    if (!have_qemu()) SKIP("no qemu-img here");
    struct Base {
        const char* name;
        const char* make;  // makes base.* and disk.qcow2 out of content.raw in the current directory
    };
    constexpr std::array kBases{
        Base{"raw backing file",
             "cp content.raw base.raw; qemu-img create -q -f qcow2 -F raw -b base.raw disk.qcow2"},
        Base{"qcow2 on qcow2 on raw",
             "qemu-img create -q -f qcow2 -F raw -b content.raw base.qcow2; qemu-img create -q -f qcow2 -o "
             "cluster_size=4k -F qcow2 -b base.qcow2 disk.qcow2"},
        Base{"extended L2 on a raw backing file",
             "qemu-img create -q -f qcow2 -o extended_l2=on -F raw -b content.raw disk.qcow2"},
        Base{"version 2 on a raw backing file",
             "qemu-img create -q -f qcow2 -o compat=0.10 -F raw -b content.raw disk.qcow2"},
        Base{"a shorter backing file",
             "head -c 5000192 content.raw > base.raw; truncate -s 5000192 content.raw; truncate -s 16M "
             "content.raw; "
             "qemu-img create -q -f qcow2 -F raw -b base.raw disk.qcow2 16M"},
        Base{"zlib", "qemu-img convert -c -f raw -O qcow2 content.raw disk.qcow2"},
        Base{"zstd", "qemu-img convert -c -f raw -O qcow2 -o compression_type=zstd content.raw disk.qcow2"},
        Base{"zlib, clusters of 512",
             "qemu-img convert -c -f raw -O qcow2 -o cluster_size=512 content.raw disk.qcow2"},
        Base{"zlib, clusters of 2M",
             "qemu-img convert -c -f raw -O qcow2 -o cluster_size=2M content.raw disk.qcow2"},
        Base{"zlib, extended L2",
             "qemu-img convert -c -f raw -O qcow2 -o extended_l2=on content.raw disk.qcow2"},
        Base{"compressed backing file",
             "qemu-img convert -c -f raw -O qcow2 content.raw base.qcow2; qemu-img create -q -f qcow2 -F "
             "qcow2 -b "
             "base.qcow2 disk.qcow2"},
        Base{"a snapshot",
             "qemu-img convert -f raw -O qcow2 content.raw disk.qcow2; qemu-img snapshot -c one disk.qcow2"},
        Base{"a snapshot of compressed clusters, of 1K",
             "qemu-img convert -c -f raw -O qcow2 -o cluster_size=1k content.raw disk.qcow2; "
             "qemu-img snapshot -c one disk.qcow2; qemu-img snapshot -c two disk.qcow2"},
        Base{"a data file",
             "qemu-img create -q -f qcow2 -o data_file=$PWD/data.raw disk.qcow2 16M; "
             "qemu-img convert -n -f raw -O qcow2 content.raw disk.qcow2"},
        Base{"a raw data file",
             "qemu-img create -q -f qcow2 -o data_file=$PWD/data.raw,data_file_raw=on disk.qcow2 16M; "
             "qemu-img convert -n -f raw -O qcow2 content.raw disk.qcow2"},
        Base{"metadata made ahead",
             "qemu-img convert -f raw -O qcow2 -o preallocation=metadata content.raw disk.qcow2"},
    };
    constexpr uint64_t kBytes = 16 * kMiB;
    for (const Base& base : kBases) {
        DYNAMIC_SECTION(base.name) {
            TempDir dir;
            std::vector<std::byte> oracle(kBytes);
            // A third of it is data, some of it easy to compress.
            for (uint64_t at = 0; at < kBytes; at += 96 * 1024) {
                const uint64_t bytes = std::min<uint64_t>(32 * 1024, kBytes - at);
                fill(oracle.data() + at, bytes / 2, at);
                std::memset(oracle.data() + at + bytes / 2, static_cast<int>(at / 4096 % 251 + 1), bytes / 2);
            }
            {
                std::ofstream file(dir.path() + "/content.raw", std::ios::binary);
                file.write(reinterpret_cast<const char*>(oracle.data()),
                           static_cast<std::streamsize>(kBytes));
            }
            must("cd " + dir.path() + " && " + base.make);
            if (std::string(base.name) == "a shorter backing file") {
                std::memset(oracle.data() + 5000192, 0, kBytes - 5000192);
            }
            const std::string path = dir.path() + "/disk.qcow2";
            const std::vector<std::byte> before = oracle;
            {
                FormatDisk disk("qcow2", path, false);
                Memory all = memory(kBytes);
                REQUIRE(disk.transfer(Op::read, 0, all.get(), kBytes) == 0);
                REQUIRE(std::memcmp(all.get(), oracle.data(), kBytes) == 0);
                torture(disk, oracle, 5, 3,
                        {.writes = 0, .reads = 1, .discards = 0, .zeros = 0, .flushes = 0});
                disk.close();
            }
            for (uint64_t round = 0; round < 2; ++round) {
                FormatDisk disk("qcow2", path);
                torture(disk, oracle, round + 77, 8);
                disk.close();
                judged_by_us(path);
                judged_by_qemu(dir, path, oracle);
            }
            // The snapshots have what they had.
            std::string output;
            run_command("qemu-img snapshot -l " + path, &output);
            if (output.find("one") != std::string::npos) {
                std::ofstream file(dir.path() + "/before.raw", std::ios::binary);
                file.write(reinterpret_cast<const char*>(before.data()),
                           static_cast<std::streamsize>(kBytes));
                file.close();
                must("cd " + dir.path() +
                     " && qemu-img convert -l one -f qcow2 -O raw disk.qcow2 one.raw && cmp one.raw "
                     "before.raw");
            }
        }
    }
}

TEST_CASE("qcow2: images that we made, in qemu's hands") {
    if (!have_qemu()) SKIP("no qemu-img here");
    for (const uint32_t cluster : {512U, 4096U, 65536U, 2U << 20}) {
        for (const uint32_t version : {2U, 3U}) {
            for (const bool extended : {false, true}) {
                if (extended && (version == 2 || cluster < 16384)) continue;
                TempDir dir;
                const std::string path = dir.file("disk.qcow2", 0);
                INFO("clusters of " << cluster << ", version " << version << ", extended " << extended);
                {
                    const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
                    qcow2::BlockingFile file(fd.get(), path);
                    const auto made = qcow2::create(file, {.bytes = 16 * kMiB,
                                                           .version = version,
                                                           .cluster_bytes = cluster,
                                                           .extended_l2 = extended});
                    REQUIRE(made.ok());
                }
                must("qemu-img check " + path);
                must(
                    "qemu-io -f qcow2 -c 'write -P 7 64k 300k' -c 'write -P 9 8M 3k' -c 'discard 100k 64k' "
                    "-c 'flush' " +
                    path);
                std::vector<std::byte> oracle(16 * kMiB);
                FormatDisk disk("qcow2", path);
                Memory all = memory(oracle.size());
                REQUIRE(disk.transfer(Op::read, 0, all.get(), oracle.size()) == 0);
                CHECK(all[300 * 1024] == std::byte{7});
                CHECK(all[8 * kMiB + 1024] == std::byte{9});
                std::memcpy(oracle.data(), all.get(), oracle.size());
                torture(disk, oracle, cluster, 4);
                disk.close();
                judged_by_qemu(dir, path, oracle);
            }
        }
    }
}

TEST_CASE("qcow2: what a crash leaves is reclaimed by the next opening") {
    if (!have_qemu()) SKIP("no qemu-img here");
    for (const char* options : {"compat=1.1", "compat=0.10", "lazy_refcounts=on", "cluster_size=1k"}) {
        TempDir dir;
        const std::string path = dir.path() + "/disk.qcow2";
        must("qemu-img create -q -f qcow2 -o " + std::string(options) + " " + path + " 16M");
        std::vector<std::byte> oracle(16 * kMiB);
        {
            FormatDisk disk("qcow2", path);
            torture(disk, oracle, 3, 4);
            disk.image.reset();  // no close()
        }
        std::string output;
        CHECK(run_command("qemu-img check " + path, &output) == 3);  // leaks, no corruption
        INFO(output);
        {
            FormatDisk disk("qcow2", path);
            disk.close();
        }
        judged_by_qemu(dir, path, oracle);
    }
}

TEST_CASE("qcow2: a new size") {
    if (!have_qemu()) SKIP("no qemu-img here");
    for (const char* options : {"cluster_size=64k", "cluster_size=512", "compat=0.10,cluster_size=4k"}) {
        TempDir dir;
        const std::string path = dir.path() + "/disk.qcow2";
        must("qemu-img create -q -f qcow2 -o " + std::string(options) + " " + path + " 4M");
        std::vector<std::byte> oracle(4 * kMiB);
        FormatDisk disk("qcow2", path);
        torture(disk, oracle, 1, 3);
        for (const uint64_t bytes : {uint64_t{4 * kMiB + 512}, 16 * kMiB, 3 * kMiB + 1536, 8 * kMiB}) {
            INFO(options << " to " << bytes);
            const auto resized = disk.image->resize(bytes);
            REQUIRE(resized.ok());
            REQUIRE(disk.image->geometry().bytes == bytes);
            oracle.resize(bytes);
            torture(disk, oracle, bytes, 2);
        }
        disk.close();
        judged_by_qemu(dir, path, oracle);
    }
}

TEST_CASE("qcow2: holes are known without being read") {
    if (!have_qemu()) SKIP("no qemu-img here");
    TempDir dir;
    const std::string path = dir.path() + "/disk.qcow2";
    must("qemu-img create -q -f qcow2 " + path + " 1T");
    must("qemu-io -f qcow2 -c 'write -P 7 100G 128k' " + path);
    FormatDisk disk("qcow2", path);
    uint64_t at = 0;
    uint64_t data = 0;
    size_t steps = 0;
    while (at < disk.image->geometry().bytes) {
        const auto extent = disk.image->extent(at);
        REQUIRE(extent.ok());
        REQUIRE(extent.value().length > 0);
        if (extent.value().kind == Extent::Kind::data) {
            data += extent.value().length;
            CHECK(at == 100 * 1024 * kMiB);
            CHECK(extent.value().host_offset != Extent::kNowhere);
        }
        at += extent.value().length;
        ++steps;
    }
    CHECK(data == 128 * 1024);
    CHECK(steps < 4000);
    disk.close();
}

TEST_CASE("qcow2: bitmaps that are not kept say so") {
    if (!have_qemu()) SKIP("no qemu-img here");
    TempDir dir;
    const std::string path = dir.path() + "/disk.qcow2";
    must("qemu-img create -q -f qcow2 " + path + " 4M && qemu-img bitmap --add " + path +
         " kept && qemu-img bitmap --add " + path + " resting && qemu-img bitmap --disable " + path +
         " resting");
    {
        FormatDisk reader("qcow2", path, false);
        reader.close();
    }
    std::string output;
    run_command("qemu-img info " + path, &output);
    CHECK(output.find("in-use") == std::string::npos);
    {
        FormatDisk disk("qcow2", path);
        disk.close();
    }
    run_command("qemu-img info " + path, &output);
    INFO(output);
    CHECK(output.find("in-use") != std::string::npos);
    CHECK(output.find("in-use") == output.rfind("in-use"));
    must("qemu-img check " + path);
}
