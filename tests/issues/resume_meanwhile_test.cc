// SPDX-License-Identifier: Apache-2.0
//
// A frontend that resumed while blkbackd, or its worker, was away. The next blkbackd took what the store says
// for what the worker served, and so never saw the new rings; the next worker was asked for the old ones,
// whose event channels were no more.
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <catch2/catch_test_macros.hpp>
#include <filesystem>
#include <fstream>

#include "supervisor_fixture.h"

using namespace ringback;
using namespace ringback::test;
using frontend::Op;

namespace {

// Starts the worker, once this gate is open.
class Gate {
  public:
    Gate() {
        REQUIRE(::mkdtemp(directory_.data()) != nullptr);
        std::ofstream(program()) << "#!/bin/sh\n[ ! -p " << pipe() << " ] || read -r go <" << pipe()
                                 << "\nexec " << RINGBACK_WORKER << " \"$@\"\n";
        REQUIRE(::chmod(program().c_str(), 0755) == 0);
    }
    ~Gate() { std::filesystem::remove_all(directory_); }
    Gate(const Gate&) = delete;
    Gate& operator=(const Gate&) = delete;

    [[nodiscard]] std::string program() const { return directory_ + "/worker"; }
    void shut() const { REQUIRE(::mkfifo(pipe().c_str(), 0600) == 0); }
    void open() const { std::ofstream(pipe()) << "go\n"; }

  private:
    [[nodiscard]] std::string pipe() const { return directory_ + "/gate"; }
    std::string directory_ = "/tmp/ringback-gate-XXXXXX";
};

struct Disk {
    explicit Disk(const std::string& worker_program = RINGBACK_WORKER) : bed("", {}, worker_program) {
        must(bed.xl.attach_disk(bed.t.domid, bed.disk(bed.file("disk.img"))));
        front = bed.front();
        must(front->attach());
        std::string data(4096, 'a');
        REQUIRE(transfer(*front, Op::write, 0, data) == 0);
    }
    void check() {
        std::string data(4096, 'b');
        CHECK(transfer(*front, Op::write, 8, data) == 0);
        CHECK(bed.node(bed.back() + "/state") == "4");
        CHECK(eventually([&] { return front->still_mapped() == 0; }));
    }

    DiskBed bed;
    std::unique_ptr<frontend::Blkfront> front;
};

}  // namespace

TEST_CASE("new rings count that were made while there was no blkbackd") {
    Disk t;
    t.bed.daemon.stop(SIGKILL);
    must(t.front->attach());
    t.bed.daemon.start();
    t.check();
}

TEST_CASE("new rings count that were made while the worker was dead") {
    const Gate gate;
    Disk t(gate.program());
    const pid_t worker = t.bed.daemon.worker(t.bed.t.domid);
    gate.shut();
    REQUIRE(::kill(worker, SIGKILL) == 0);
    REQUIRE(eventually([&] { return t.bed.daemon.worker(t.bed.t.domid) != worker; }));
    must(t.front->attach());
    gate.open();
    t.check();
}
