// SPDX-License-Identifier: Apache-2.0
//
// Reading and changing xl configurations: golden cases, and xl's own parser as a second opinion on all of
// them.
#include "mac-pool/xl_config.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <fstream>
#include <random>
#include <sstream>

#include "tests/macpool/fixture.h"
#include "tests/macpool/xl_oracle.h"

using namespace ringback;
using namespace ringback::mac;
using namespace ringback::test;
using Catch::Matchers::ContainsSubstring;

namespace {

constexpr Mac kFirst{0x00163e000001};
constexpr Mac kSecond{0x00163e000002};
constexpr const char* kUuid = "6f2c7c9e-1b1a-4f4e-8f3a-0123456789ab";

std::optional<std::string> oracle(const std::string& text) {
    char out[16384];
    if (xl_oracle(text.data(), text.size(), out, sizeof out) != 0) return std::nullopt;
    return out;
}

std::string changed(const std::string& text, bool with_uuid) {
    XlConfig config = must(XlConfig::parse(text, "guest.cfg"));
    for (size_t vif = 0; vif < config.vifs(); ++vif)
        config.set_mac(vif, Mac{kFirst.value + vif});
    if (with_uuid) config.set_uuid(kUuid);
    return config.text();
}

}  // namespace

TEST_CASE("addresses go into the vif lines and every other byte stays") {
    const auto [before, after] = GENERATE(table<std::string, std::string>({
        {"vif = ['']\n", "vif = ['mac=00:16:3e:00:00:01']\n"},
        {"vif = [ '', \"\" ]\n", "vif = [ 'mac=00:16:3e:00:00:01', \"mac=00:16:3e:00:00:02\" ]\n"},
        {"vif = ['bridge=xenbr0']\n", "vif = ['mac=00:16:3e:00:00:01, bridge=xenbr0']\n"},
        {"vif=[\" bridge=xenbr0\"]", "vif=[\"mac=00:16:3e:00:00:01, bridge=xenbr0\"]"},
        {"vif = ['bridge=xenbr0,mac=00:16:3E:AA:bb:cc,rate=1MB/s']\n",
         "vif = ['bridge=xenbr0,mac=00:16:3e:00:00:01,rate=1MB/s']\n"},
        {"vif = ['mac=00:16:3e:aa:bb:cc , bridge=x']\n", "vif = ['mac=00:16:3e:00:00:01 , bridge=x']\n"},
        {"# vif = ['old']\nvif = [ # first\n  'bridge=a', # vif 0: ']'\n\n  \"bridge=b\",\n]   # "
         "done\nname='x'\n",
         "# vif = ['old']\nvif = [ # first\n  'mac=00:16:3e:00:00:01, bridge=a', # vif 0: ']'\n\n  "
         "\"mac=00:16:3e:00:00:02, "
         "bridge=b\",\n]   # done\nname='x'\n"},
        {"vif = ['bridge=dead']\nvif = ['bridge=live']\n",
         "vif = ['bridge=dead']\nvif = ['mac=00:16:3e:00:00:01, bridge=live']\n"},
        {"vif = ['bridge=a']\nvif += ['bridge=b']\n",
         "vif = ['mac=00:16:3e:00:00:01, bridge=a']\nvif += ['mac=00:16:3e:00:00:02, bridge=b']\n"},
        {"vif += ['bridge=a'];vif+=['']\n",
         "vif += ['mac=00:16:3e:00:00:01, bridge=a'];vif+=['mac=00:16:3e:00:00:02']\n"},
        {"vif = ['script=a\\'b,mac=00:16:3e:aa:bb:cc,bridge=\\\"x\\\\']\n",
         "vif = ['script=a\\'b,mac=00:16:3e:00:00:01,bridge=\\\"x\\\\']\n"},
        {"vif = ['script=\\'q\\',bridge=a']\n", "vif = ['mac=00:16:3e:00:00:01, script=\\'q\\',bridge=a']\n"},
        {"vif = ['model=e1000,macro=no']\n", "vif = ['mac=00:16:3e:00:00:01, model=e1000,macro=no']\n"},
        {"disk = [ 'vif = [', \"a'b\" ]\nvif = ['x=1']\nlist=[[1,2],['a']]\n",
         "disk = [ 'vif = [', \"a'b\" ]\nvif = ['mac=00:16:3e:00:00:01, x=1']\nlist=[[1,2],['a']]\n"},
        {"vif = []\n", "vif = []\n"},
        {"name = 'x'\n", "name = 'x'\n"},
        {"", ""},
    }));
    CHECK(changed(before, false) == after);
    // A second run has nothing to change.
    XlConfig again = must(XlConfig::parse(after, "guest.cfg"));
    for (size_t vif = 0; vif < again.vifs(); ++vif)
        again.set_mac(vif, Mac{kFirst.value + vif});
    CHECK_FALSE(again.changed());
    CHECK(oracle(before).has_value());
    CHECK(oracle(after).has_value());
}

TEST_CASE(
    "the uuid goes on a line of its own after the name, or beside it where that would break something") {
    const std::string line = std::string("uuid = \"") + kUuid + "\"";
    const auto [before, after] = GENERATE_COPY(table<std::string, std::string>({
        {"name = 'x'\nmemory = 512\n", "name = 'x'\n" + line + "\nmemory = 512\n"},
        {"name = 'x'  # the name\nmemory = 512\n", "name = 'x'  # the name\n" + line + "\nmemory = 512\n"},
        {"memory = 512\nname = \"x\"", "memory = 512\nname = \"x\"\n" + line},
        {"name = 'x'; vif = [\n'' ]\n", "name = 'x'; " + line + "; vif = [\n'' ]\n"},
        {"vif = [ '',\n'' ]; name = 'x' # y\n", "vif = [ '',\n'' ]; name = 'x' # y\n" + line + "\n"},
        {"name = 'old'\nname = 'x'\n", "name = 'old'\nname = 'x'\n" + line + "\n"},
        {"uuid = '11111111-2222-4333-8444-555555555555'\nname='x'\n", line + "\nname='x'\n"},
        {"name = 'x'\nuuid=\"6F2C7C9E1B1A4F4E8F3A0123456789AB\"\n",
         "name = 'x'\nuuid=\"6F2C7C9E1B1A4F4E8F3A0123456789AB\"\n"},
    }));
    XlConfig config = must(XlConfig::parse(before, "guest.cfg"));
    config.set_uuid(kUuid);
    CHECK(config.text() == after);
    const XlConfig again = must(XlConfig::parse(after, "guest.cfg"));
    CHECK(again.uuid() == kUuid);
    CHECK(again.name() == "x");
    const auto xl = oracle(after);
    REQUIRE(xl.has_value());
    CHECK(xl->starts_with("x\n"));
    CHECK(must(parse_uuid(xl->substr(2, xl->find('\n', 2) - 2))) == kUuid);
}

TEST_CASE("what xl refuses, or would take for something else, is refused with its line") {
    const auto [text, line, why] = GENERATE(table<std::string, int, std::string>({
        {"name = 'x'\nvif = 'bridge=a'\n", 2, "single value"},
        {"vif = [ 'a', 12 ]\n", 1, "must be a string"},
        {"vif = [\n'a',\n['b'] ]\n", 3, "must be a string"},
        {"vif = ['a' 'b']\n", 1, "expected ',' or ']'"},
        {"vif = ['a',,]\n", 1, "must be a string"},
        {"vif = ['a\n']\n", 1, "closing quote"},
        {"vif = ['a'\n", 2, "expected ',' or ']'"},
        {"vif = ['\\x41']\n", 1, "escape"},
        {"vif = ['\\101']\n", 1, "escape"},
        {"vif = ['a'] name = 'b'\n", 1, "end of the line"},
        {"vif\n= ['a']\n", 1, "expected = after vif"},
        {"name = abc\n", 1, "expected a string, a number or a list"},
        {"name = 'a'\r\n", 1, "0x0d"},
        {"import os\n", 1, "expected = after import"},
        {"\n\nVIF = ['']\n", 3, "'V'"},
        {"vif = ['mac=00:16:3e:00:00:01,mac=00:16:3e:00:00:02']\n", 1, "two mac="},
        {"vif = ['',\n'mac=00:16:3e:00:00']\n", 2, "'00:16:3e:00:00'"},
        {"vif = ['mac=']\n", 1, "''"},
        {"vif = ['mac=01:16:3e:00:00:01']\n", 1, "multicast"},
        {"vif = ['mac=00-16-3e-00-00-01']\n", 1, "'00-16-3e-00-00-01'"},
        {"uuid = 'web'\n", 1, "'web' is not a UUID"},
    }));
    const Error error = must_fail(XlConfig::parse(text, "guest.cfg"));
    CHECK_THAT(error.message,
               ContainsSubstring("guest.cfg:" + std::to_string(line) + ": ") && ContainsSubstring(why));
}

// Random texts out of the grammar's pieces: what we accept, xl accepts, and sees the same vifs, before and
// after.
TEST_CASE("xl's own parser agrees on thousands of odd configurations") {
    const std::vector<std::string> pieces{"vif",
                                          "name",
                                          "uuid",
                                          "=",
                                          "+=",
                                          "[",
                                          "]",
                                          ",",
                                          "\n",
                                          ";",
                                          "# c'[\n",
                                          "'a=b'",
                                          "\"\"",
                                          "''",
                                          "12",
                                          " ",
                                          "\t",
                                          "'bridge=x,rate=1'",
                                          "'mac=00:16:3e:0a:0b:0c'",
                                          "memory",
                                          "vif = [",
                                          "name = 'x'\n",
                                          "]\n",
                                          "\"it\\\"s\"",
                                          "'\\n'"};
    std::minstd_rand random(11);
    int accepted = 0;
    for (int turn = 0; turn < 60'000; ++turn) {
        std::string text;
        // Half of them begin sensibly, or hardly any would be accepted.
        if (random() % 2 == 0) text = "vif = [ 'bridge=x', ";
        for (auto count = random() % 12; count > 0; --count)
            text += pieces[random() % pieces.size()];
        const auto xl = oracle(text);
        const auto ours = XlConfig::parse(text, "guest.cfg");
        if (!ours.ok()) continue;
        INFO(text);
        // xl wants a newline after a comment that ends the file; we do not mind.
        REQUIRE(xl.has_value());
        ++accepted;
        const auto lines = static_cast<size_t>(std::count(xl->begin(), xl->end(), '\n'));
        // An escaped newline in an entry counts too.
        if (xl->find("\n\n\n") == std::string::npos && text.find("\\n") == std::string::npos)
            REQUIRE(ours.value().vifs() + 2 == lines);
        const std::string after = changed(text, !ours.value().name().empty());
        const auto xl_after = oracle(after);
        INFO(after);
        REQUIRE(xl_after.has_value());
        for (size_t vif = 0; vif < ours.value().vifs(); ++vif) {
            REQUIRE_THAT(*xl_after, ContainsSubstring("mac=" + Mac{kFirst.value + vif}.text()));
        }
        REQUIRE(xl_after->starts_with(ours.value().name() + "\n"));
    }
    CHECK(accepted > 3000);
}

TEST_CASE("a configuration is replaced in one step, with its owner and mode, and through a link") {
    Directory directory;
    const std::string real = directory.file("real.cfg");
    const std::string link = directory.file("link.cfg");
    std::ofstream(real) << "old\n";
    REQUIRE(::chmod(real.c_str(), 0640) == 0);
    REQUIRE(::symlink("real.cfg", link.c_str()) == 0);
    const int before = ::open(real.c_str(), O_RDONLY | O_CLOEXEC);
    must(replace_file(link, "new\n"));
    CHECK(slurp(real) == "new\n");
    struct stat status {};
    REQUIRE(::lstat(link.c_str(), &status) == 0);
    CHECK(S_ISLNK(status.st_mode));
    REQUIRE(::stat(real.c_str(), &status) == 0);
    CHECK((status.st_mode & 07777) == 0640);
    // Whoever had it open still reads the whole of the old one.
    char buffer[16];
    CHECK(::read(before, buffer, sizeof buffer) == 4);
    ::close(before);
    CHECK(std::distance(std::filesystem::directory_iterator(directory.path()), {}) == 2);
    CHECK_FALSE(replace_file(directory.file("none.cfg"), "x").ok());
    CHECK_FALSE(read_xl_config(directory.path()).ok());
}
