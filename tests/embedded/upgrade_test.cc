// SPDX-License-Identifier: Apache-2.0
//
// `blkbackd upgrade`: the installed worker is another file than the one that serves, and every guest is moved to it under
// the eyes of its frontend; one that cannot take over stops nobody.
#include <sys/stat.h>

#include <array>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "supervisor_fixture.h"

using namespace ringback;
using namespace ringback::test;
using Catch::Matchers::ContainsSubstring;
using frontend::Op;

namespace {

struct Installed {
    Installed() {
        REQUIRE(::mkdtemp(directory.data()) != nullptr);
        install_copy();
    }
    ~Installed() { std::filesystem::remove_all(directory); }
    [[nodiscard]] std::string worker() const { return directory + "/blkback-worker"; }
    // As a package does: a new file under the old name.
    void install_copy() const {
        std::filesystem::copy_file(RINGBACK_WORKER, worker() + ".new");
        std::filesystem::rename(worker() + ".new", worker());
    }
    void install_script(const std::string& text) const {
        std::ofstream(worker() + ".new") << text;
        ::chmod((worker() + ".new").c_str(), 0755);
        std::filesystem::rename(worker() + ".new", worker());
    }
    std::string directory = "/tmp/ringback-installed-XXXXXX";
};

struct Outcome {
    int status = -1;
    std::string text;
};

Outcome upgrade(const DiskBed& bed, const Installed& installed) {
    const std::string command = std::string(RINGBACK_BLKBACKD) + " upgrade --spawn-workers --worker-program " +
                                installed.worker() + " --runtime-directory " + bed.daemon.directory() + " --config " +
                                bed.daemon.directory() + "/../blkbackd.toml 2>&1";
    Outcome outcome;
    FILE* tool = ::popen(command.c_str(), "re");
    REQUIRE(tool != nullptr);
    std::array<char, 512> line{};
    while (std::fgets(line.data(), line.size(), tool) != nullptr) outcome.text += line.data();
    outcome.status = ::pclose(tool);
    return outcome;
}

void check_data(frontend::Blkfront& front, char mark) {
    std::string data(4096, mark);
    REQUIRE(transfer(front, Op::write, 8, data) == 0);
    std::string back(4096, '\0');
    REQUIRE(transfer(front, Op::read, 8, back) == 0);
    CHECK(back == data);
}

}  // namespace

TEST_CASE("every guest is moved to the installed worker, one by one, and its pause is told; a second time there is nothing to do") {
    const Installed installed;
    DiskBed bed("", {}, installed.worker());
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(bed.file("disk.img"))));
    auto front = bed.front();
    must(front->attach());
    const Neighbour neighbour(bed);
    check_data(*front, 'a');
    const pid_t first = bed.daemon.worker(bed.t.domid);
    const pid_t second = bed.daemon.worker(neighbour.domid());
    installed.install_copy();

    const Outcome moved = upgrade(bed, installed);
    INFO(moved.text);
    CHECK(moved.status == 0);
    CHECK_THAT(moved.text, ContainsSubstring("(domain " + std::to_string(bed.t.domid) + "): worker "));
    CHECK_THAT(moved.text, ContainsSubstring("(domain " + std::to_string(neighbour.domid()) + "): worker "));
    CHECK_THAT(moved.text, ContainsSubstring("paused for"));
    for (const auto& [domid, former] : {std::pair(bed.t.domid, first), std::pair(neighbour.domid(), second)}) {
        const pid_t now = bed.daemon.worker(domid);
        CHECK(now != former);
        CHECK(std::filesystem::read_symlink("/proc/" + std::to_string(now) + "/exe") == installed.worker());
    }
    check_data(*front, 'b');
    neighbour.check();
    CHECK(front->poll_backend() == frontend::Change::none);
    CHECK(bed.node(bed.back() + "/state") == "4");

    const pid_t settled = bed.daemon.worker(bed.t.domid);
    const Outcome again = upgrade(bed, installed);
    INFO(again.text);
    CHECK(again.status == 0);
    CHECK_THAT(again.text, ContainsSubstring("has the installed worker already"));
    CHECK(bed.daemon.worker(bed.t.domid) == settled);
    must(front->close());
}

TEST_CASE("an installed worker that cannot take over is told so before anything is stopped") {
    const Installed installed;
    DiskBed bed("", {}, installed.worker());
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(bed.file("disk.img"))));
    auto front = bed.front();
    must(front->attach());
    const pid_t worker = bed.daemon.worker(bed.t.domid);
    for (const char* script : {"#!/bin/sh\necho protocol 999 journal 2\n", "#!/bin/sh\necho protocol 2 journal 999\n",
                               "#!/bin/sh\nexit 3\n"}) {
        installed.install_script(script);
        const Outcome refused = upgrade(bed, installed);
        INFO(refused.text);
        CHECK(refused.status != 0);
        CHECK_THAT(refused.text, ContainsSubstring("take over"));
        CHECK(bed.daemon.worker(bed.t.domid) == worker);
        check_data(*front, 'c');
    }
    // Whoever asks the daemon itself is refused as well.
    const auto asked = bed.daemon.ask({{"command", "replace-worker"}, {"guest", std::to_string(bed.t.domid)},
                                       {"interface", "protocol 999 journal 2"}});
    CHECK(asked["ok"] == false);
    CHECK(bed.daemon.worker(bed.t.domid) == worker);
    must(front->close());
}
