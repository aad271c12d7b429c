// SPDX-License-Identifier: Apache-2.0
//
// LVM volumes through their command: a stand-in answers what LVM answers, and notes what it was asked.
#include "disk-images/lvm/lvm.h"

#include <sys/stat.h>

#include <catch2/matchers/catch_matchers_string.hpp>

#include "image_loop.h"
#include "runtime/command.h"

using namespace ringback;
using namespace ringback::image;
using namespace ringback::image::test;
using Catch::Matchers::ContainsSubstring;

namespace {

// A program that says what `answer` holds for lvs, and does nothing else; "lvchange" may swap the answer.
class FakeLvm {
  public:
    FakeLvm() {
        const std::string script = "#!/bin/sh\nd=" + dir.path() +
                                   "\nfor w in \"$@\"; do printf '%s|' \"$w\"; done >>$d/calls; echo >>$d/calls\n"
                                   "[ ! -f $d/complaint ] || { cat $d/complaint >&2; exit 5; }\n"
                                   "case $1 in lvs) cat $d/answer;; *) [ ! -f $d/next ] || mv $d/next $d/answer;; esac\n";
        put("lvm", script);
        REQUIRE(chmod((dir.path() + "/lvm").c_str(), 0755) == 0);
    }
    void put(const std::string& name, const std::string& text) const {
        std::ofstream(dir.path() + "/" + name) << text;
    }
    [[nodiscard]] std::string calls() const {
        std::ifstream file(dir.path() + "/calls");
        return {std::istreambuf_iterator<char>(file), {}};
    }
    [[nodiscard]] lvm::Lvm lvm() const { return lvm::Lvm(dir.path() + "/lvm"); }
    TempDir dir;
};

struct Fields {
    std::string path = "/dev/vg0/root";
    std::string active = "1";
    std::string open = "0";
    std::string type = "linear";
    std::string health{};
    std::string size = "1073741824";
    std::string name = "root";
};

std::string report(const Fields& f) {
    return R"(  {
      "report": [
          {
              "lv": [
                  {"vg_name":"vg0", "lv_name":")" +
           f.name + R"(", "lv_path":")" + f.path + R"(", "lv_size":")" + f.size + R"(", "lv_active":")" + f.active +
           R"(", "lv_device_open":")" + f.open + R"(", "lv_layout":")" + f.type +
           R"(", "origin":"", "pool_lv":"", "data_percent":"", "lv_health_status":")" + f.health +
           R"(", "lv_permissions":"writeable"}
              ]
          }
      ]
  }
)";
}

const lvm::Name kName{"vg0", "root"};

}  // namespace

TEST_CASE("lvm: names are what LVM allows, and nothing its command could take for an option") {
    CHECK(lvm::parse_name("vg0/root").value().volume == "root");
    CHECK(lvm::parse_name("vg.a-b+c_1/lv-x").value().group == "vg.a-b+c_1");
    for (const char* bad : {"", "vg0", "/root", "vg0/", "-f/root", "vg0/-f", "vg0/a/b", "vg0/a b", "vg0/$(x)", "../root", "vg0/..",
                            "vg0/a\nb", "@tag/x"}) {
        INFO(bad);
        CHECK(lvm::parse_name(bad).error().code == EINVAL);
    }
}

TEST_CASE("lvm: an active volume is used as it is") {
    FakeLvm fake;
    fake.put("answer", report({}));
    const lvm::Volume volume = fake.lvm().activate(kName, true).value();
    CHECK(volume.path == "/dev/vg0/root");
    CHECK(volume.bytes == 1U << 30);
    CHECK(volume.writable);
    CHECK_THAT(fake.calls(), ContainsSubstring("lvs|--all|--reportformat|json|") && ContainsSubstring("|vg0/root|"));
    CHECK(fake.calls().find("lvchange") == std::string::npos);
}

TEST_CASE("lvm: an inactive one is activated, snapshots of thin volumes too") {
    FakeLvm fake;
    fake.put("answer", report({.active = "0", .type = "thin,sparse"}));
    fake.put("next", report({.active = "1", .type = "thin,sparse"}));
    CHECK(fake.lvm().activate(kName, true).value().thin);
    CHECK_THAT(fake.calls(), ContainsSubstring("lvchange|--activate|y|--ignoreactivationskip|vg0/root|"));
    fake.put("answer", report({.active = "0"}));
    CHECK_THAT(fake.lvm().activate(kName, true).error().message, ContainsSubstring("stays inactive"));
}

TEST_CASE("lvm: what is in use, no disk or not healthy is refused") {
    FakeLvm fake;
    struct Case {
        Fields fields;
        const char* says;
    };
    const std::vector<Case> cases = {
        {{.open = "1"}, "in use"},
        {{.path = "", .type = "thin,pool"}, "thin pool"},
        {{.path = ""}, "part of another"},
        {{.path = "", .name = "[root]"}, "part of another"},
        {{.path = "/etc/passwd"}, "it would be at /etc/passwd"},
        {{.health = "partial"}, "not healthy: partial"},
    };
    for (const Case& c : cases) {
        fake.put("answer", report(c.fields));
        CHECK_THAT(fake.lvm().activate(kName, true).error().message, ContainsSubstring(c.says) && ContainsSubstring("vg0/root"));
    }
    CHECK(fake.calls().find("lvchange") == std::string::npos);
    fake.put("answer", report({.open = "1"}));
    CHECK(fake.lvm().activate(kName, false).ok());
}

TEST_CASE("lvm: complaints of the command become the error's text; a missing command says what to install") {
    FakeLvm fake;
    fake.put("complaint", "  WARNING: something\n  Failed to find logical volume \"vg0/root\"\n");
    CHECK(fake.lvm().lookup(kName).error().message == "look up lvm:vg0/root: Failed to find logical volume \"vg0/root\"");
    fake.put("complaint", "  Volume group \"vg0\" not found\n  WARNING: something\n\n  Cannot process volume group vg0.\n");
    CHECK(fake.lvm().lookup(kName).error().message ==
          "look up lvm:vg0/root: Volume group \"vg0\" not found; Cannot process volume group vg0");
    fake.put("complaint", "  WARNING: something\n");
    CHECK(fake.lvm().lookup(kName).error().message.ends_with("lvm lvs ended with status 5"));
    fake.put("complaint", std::string(100000, 'x'));
    CHECK(fake.lvm().lookup(kName).error().message.size() < 500);
    const lvm::Lvm none(fake.dir.path() + "/nothing");
    CHECK_THAT(none.lookup(kName).error().message, ContainsSubstring("not installed"));
}

TEST_CASE("lvm: answers that are none") {
    FakeLvm fake;
    for (const char* answer : {"", "{", "[]", "{}", R"({"report":[]})", R"({"report":[{"lv":3}]})", R"({"report":[{"lv":[]}]})",
                               R"({"report":[{"lv":[7]}]})", R"({"report":[{"lv":[{}]}]})",
                               R"({"report":[{"lv":[{"vg_name":"vg0","lv_name":"other","lv_size":"1"}]}]})",
                               R"({"report":[{"lv":[{"vg_name":"vg0","lv_name":"root","lv_size":"1G"}]}]})"}) {
        INFO(answer);
        fake.put("answer", answer);
        CHECK_FALSE(fake.lvm().lookup(kName).ok());
    }
}

TEST_CASE("lvm: growing asks for bytes, and never shrinks") {
    FakeLvm fake;
    fake.put("answer", report({}));
    fake.put("next", report({.size = "2147483648"}));
    CHECK(fake.lvm().extend(kName, 2000000000).value().bytes == 2147483648);
    CHECK_THAT(fake.calls(), ContainsSubstring("lvextend|--size|2000000000b|vg0/root|"));
    CHECK_THAT(fake.lvm().extend(kName, 512).error().message, ContainsSubstring("only grows"));
}

// LVM keeps its metadata without a device mapper too; nothing can be activated then.
TEST_CASE("lvm: what LVM itself answers, of a volume in two pieces too") {
    TempDir dir;
    const UniqueFd backing(::open(dir.file("pv", 64U << 20).c_str(), O_RDWR | O_CLOEXEC));
    const LoopDevice loop(backing.get(), 512);
    if (!loop.ok()) SKIP("no loop device can be set up here (needs root and /dev/loop-control)");
    if (std::system("PATH=/usr/sbin:/sbin lvm version >/dev/null 2>&1") != 0) SKIP("no lvm here");
    const std::string program = dir.path() + "/without-driver";
    std::ofstream(dir.path() + "/lvm.conf") << "devices { use_devicesfile = 0\n filter = [ \"a|^" << loop.path()
                                            << "$|\", \"r|.*|\" ] }\nglobal { locking_dir = \"" << dir.path()
                                            << "\"\n use_lvmpolld = 0 }\nbackup { backup = 0\n archive = 0 }\n";
    std::ofstream(program) << "#!/bin/sh\nexport LVM_SYSTEM_DIR=" << dir.path()
                           << "\ncommand=$1\nshift\nexec lvm \"$command\" --driverloaded n \"$@\"\n";
    REQUIRE(chmod(program.c_str(), 0755) == 0);
    const auto run = [&](std::vector<std::string> words) {
        words.insert(words.begin(), program);
        const auto done = run_command(words).value();
        INFO(words[1] << ": " << done.complaints);
        REQUIRE(done.status == 0);
    };
    const std::string group = "ringback" + std::to_string(getpid());
    run({"pvcreate", loop.path()});
    run({"vgcreate", group, loop.path()});
    for (const char* name : {"two", "other"}) run({"lvcreate", "-an", "-Zn", "-Wn", "-y", "-L", "8m", "-n", name, group});
    run({"lvextend", "-L", "16m", group + "/two"});
    const lvm::Lvm real(program);
    const lvm::Volume volume = real.lookup({group, "two"}).value();
    CHECK(volume.bytes == 16U << 20);
    CHECK(volume.path == "/dev/" + group + "/two");
    CHECK((volume.writable && !volume.thin && !volume.thin_pool && !volume.open));
    CHECK(lvm::check_usable(volume).ok());
    CHECK_THAT(real.lookup({group, "none"}).error().message, ContainsSubstring("Failed to find logical volume"));
    CHECK_THAT(real.lookup({"no" + group, "none"}).error().message, ContainsSubstring("not found; Cannot process volume group"));
}

TEST_CASE("lvm: snapshots of thick volumes need a size, of thin ones none") {
    FakeLvm fake;
    fake.put("answer", report({}));
    CHECK_THAT(fake.lvm().snapshot(kName, "snap", 0).error().message, ContainsSubstring("needs a size"));
    REQUIRE(fake.lvm().snapshot(kName, "snap", 1 << 20).ok());
    CHECK_THAT(fake.calls(), ContainsSubstring("lvcreate|--snapshot|--name|snap|--size|1048576b|vg0/root|"));
    fake.put("answer", report({.type = "thin,sparse"}));
    REQUIRE(fake.lvm().snapshot(kName, "snap2", 0).ok());
    CHECK_THAT(fake.calls(), ContainsSubstring("lvcreate|--snapshot|--name|snap2|vg0/root|"));
    CHECK(fake.lvm().snapshot(kName, "-bad", 0).error().code == EINVAL);
}

TEST_CASE("lvm: a command that talks without end is ended") {
    FakeLvm fake;
    fake.put("lvm", "#!/bin/sh\nexec yes\n");
    CHECK_THAT(fake.lvm().lookup(kName).error().message, ContainsSubstring("without end"));
}
