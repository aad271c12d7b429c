// SPDX-License-Identifier: Apache-2.0
#include "blkback/policy.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <filesystem>
#include <fstream>

#include "image_loop.h"

using namespace ringback;
using Catch::Matchers::ContainsSubstring;

namespace {

const blk::PathRules kAnywhere{{"/"}, {}};

class Folder {
  public:
    Folder() {
        std::string name = (std::filesystem::temp_directory_path() / "ringback-policy-XXXXXX").string();
        REQUIRE(::mkdtemp(name.data()) != nullptr);
        path = std::filesystem::canonical(name);
    }
    ~Folder() { std::filesystem::remove_all(path); }
    [[nodiscard]] std::string file(const std::string& name, uintmax_t bytes) const {
        const std::string full = path + "/" + name;
        std::ofstream{full};
        std::filesystem::resize_file(full, bytes);
        return full;
    }
    std::string path;
};

Error refused(const std::string& path, const blk::OpenRequest& request = {.writable = true, .direct_io_safe = false, .within = nullptr},
              const blk::PathRules& rules = kAnywhere) {
    const auto opened = blk::open_target(path, rules, request);
    REQUIRE_FALSE(opened.ok());
    CHECK_THAT(opened.error().message, ContainsSubstring(path));
    return opened.error();
}

}  // namespace

TEST_CASE("a target that is a path is raw, whatever it looks like") {
    const std::string path = GENERATE("/srv/a.img", "/srv/disk.qcow2", "/srv/with blank, comma: and colon",
                                      "/dev/vg0/lv-root", "/srv/raw:x");
    const auto target = blk::parse_target("vbd", path);
    REQUIRE(target.ok());
    CHECK(target.value().format == "raw");
    CHECK(target.value().path == path);
}

TEST_CASE("a vbd3 target comes with libxl's prefix") {
    CHECK(blk::parse_target("vbd3", "aio:/srv/a b.img").value().path == "/srv/a b.img");
    CHECK(blk::parse_target("vbd3", "aio:qcow2:/x").value().format == "qcow2");
    CHECK(blk::parse_target("vbd3", "vhd:/srv/a.vhd").value().format == "vhd");
    // Only there: elsewhere it is a scheme that nobody knows.
    CHECK(blk::parse_target("vbd", "aio:/srv/a.img").error().code == ENOTSUP);
}

TEST_CASE("a format comes by prefix, and its path is all that follows") {
    const auto target = blk::parse_target("vbd", "qcow2:/srv/a: b, c.qcow2");
    REQUIRE(target.ok());
    CHECK(target.value().format == "qcow2");
    CHECK(target.value().path == "/srv/a: b, c.qcow2");
    CHECK_THAT(blk::parse_target("vbd", "qcow2:srv/a").error().message, ContainsSubstring("absolute path"));
}

TEST_CASE("a file that an image names is below the image's own directory, or where it is allowed") {
    Folder folder;
    std::filesystem::create_directory(folder.path + "/guest");
    std::filesystem::create_directory(folder.path + "/bases");
    const std::string image = folder.file("guest/disk.qcow2", 4096);
    const std::string base = folder.file("guest/base.raw", 4096);
    const std::string other = folder.file("bases/base.raw", 4096);
    std::filesystem::create_symlink(other, folder.path + "/guest/link.raw");
    const auto opens = [&](const std::string& path, const std::vector<std::string>& roots) {
        const blk::PathRules within = blk::named_file_rules(image, roots).value();
        return blk::open_target(path, kAnywhere, {.writable = false, .direct_io_safe = false, .within = &within}).ok();
    };
    CHECK(opens(base, {}));
    CHECK_FALSE(opens(other, {}));
    CHECK_FALSE(opens(folder.path + "/guest/link.raw", {}));
    CHECK_FALSE(opens(folder.path + "/guest/../bases/base.raw", {}));
    CHECK_FALSE(opens("/etc/passwd", {}));
    CHECK(opens(other, {folder.path + "/bases"}));
    CHECK_FALSE(opens(base, {folder.path + "/bases"}));
}

TEST_CASE("an LVM volume is a raw disk where LVM puts it, and nothing else has such a name") {
    const auto volume = blk::parse_target("vbd3", "aio:lvm:vg.0/root-1").value();
    CHECK(volume.format == "raw");
    CHECK(volume.path == "/dev/vg.0/root-1");
    CHECK(volume.volume->text() == "vg.0/root-1");
    CHECK_FALSE(blk::parse_target("vbd", "/dev/vg0/root").value().volume);
    const std::string bad = GENERATE("lvm:", "lvm:vg0", "lvm:/dev/vg0/root", "lvm:vg0/../sda", "lvm:-f/root", "lvm:vg0/a b",
                                     "lvm:vg0/a/b");
    CHECK(blk::parse_target("vbd", bad).error().code == EINVAL);
}

TEST_CASE("a block device that the host itself uses is refused to a new disk") {
    const Folder folder;
    const UniqueFd backing(::open(folder.file("backing", 1U << 20).c_str(), O_RDWR | O_CLOEXEC));
    const image::test::LoopDevice loop(backing.get(), 512);
    if (!loop.ok()) SKIP("no loop device can be set up here (needs root and /dev/loop-control)");
    blk::OpenRequest request;
    request.writable = GENERATE(false, true);
    request.refuse_host_use = true;
    CHECK(blk::open_target(loop.path(), kAnywhere, request).ok());
    const UniqueFd host(::open(loop.path().c_str(), O_RDONLY | O_EXCL | O_CLOEXEC));  // as a mount holds it
    REQUIRE(host);
    const Error error = refused(loop.path(), request);
    CHECK(error.code == EBUSY);
    CHECK_THAT(error.message, ContainsSubstring("this host itself uses it"));
    request.refuse_host_use = false;
    CHECK(blk::open_target(loop.path(), kAnywhere, request).ok());
}

TEST_CASE("other targets are refused by name, with what is supported") {
    const auto server = blk::parse_target("vbd3", "aio:nbd+unix:///x?socket=/run/s").value();
    CHECK((server.format == "nbd" && server.path == "nbd+unix:///x?socket=/run/s" && server.server->socket == "/run/s"));
    CHECK(blk::parse_target("vbd", "nbd://h/x").value().server->host == "h");
    CHECK(blk::parse_target("vbd", "nbd:/srv/a").error().code == ENOTSUP);
    const auto unknown = blk::parse_target("vbd", "qcow9:/srv/a.img");
    CHECK(unknown.error().code == ENOTSUP);
    CHECK_THAT(unknown.error().message, ContainsSubstring("qcow9") && ContainsSubstring("supported: /path (raw)"));
    CHECK_THAT(blk::parse_target("vbd", "").error().message, ContainsSubstring("no target"));
    CHECK_THAT(blk::parse_target("vbd", "srv/a.img").error().message, ContainsSubstring("no absolute path"));
    CHECK_THAT(blk::parse_target("vbd", ":/srv/a.img").error().message, ContainsSubstring("no absolute path"));
    CHECK_FALSE(blk::parse_target("vbd", "/" + std::string(5000, 'x')).ok());
}

TEST_CASE("what a stock script leaves") {
    CHECK(blk::prepared_target("/dev/loop3", "7:3").value().path == "/dev/loop3");
    CHECK(blk::prepared_target("", "fd:1a").value().path == "/dev/block/253:26");
    const std::string bad = GENERATE("", "7", "7:", ":3", "7:3 ", "-1:2", "0x7:3", "zz:3", "123456789:1");
    CHECK_FALSE(blk::prepared_target("", bad).ok());
}

TEST_CASE("the longest entry that holds a path decides; a tie is a no") {
    const blk::PathRules rules{{"/srv", "/srv/secret/open"}, {"/srv/secret", "/srv/same", "/dev"}};
    CHECK(rules.allows("/srv/a.img"));
    CHECK_FALSE(rules.allows("/srv/secret/a.img"));
    CHECK(rules.allows("/srv/secret/open/a.img"));
    CHECK(rules.allows("/srv/secretary/a.img"));
    CHECK_FALSE(rules.allows("/opt/a.img"));
    CHECK_FALSE(blk::PathRules{{"/srv"}, {"/srv"}}.allows("/srv/a.img"));
}

TEST_CASE("a regular file is opened afresh, close-on-exec, for what was asked") {
    const Folder folder;
    const std::string path = folder.file("a, b: c.img", 4096);
    const auto writable = blk::open_target(path, kAnywhere, {.writable = true});
    REQUIRE(writable.ok());
    CHECK(writable.value().bytes == 4096);
    CHECK((::fcntl(writable.value().fd.get(), F_GETFL) & O_ACCMODE) == O_RDWR);
    CHECK(((::fcntl(writable.value().fd.get(), F_GETFL) & O_DIRECT) != 0) == writable.value().direct);
    CHECK((::fcntl(writable.value().fd.get(), F_GETFD) & FD_CLOEXEC) != 0);
    CHECK(writable.value().direct == writable.value().why_buffered.empty());
    const auto reading = blk::open_target(path, kAnywhere, {.writable = false});
    CHECK((::fcntl(reading.value().fd.get(), F_GETFL) & O_ACCMODE) == O_RDONLY);
}

TEST_CASE("a file system without O_DIRECT is used through the page cache, and it is said") {
    // procfs refuses O_DIRECT on every kernel, and a file of it has no size: the refusal that is seen is the size's.
    CHECK_THAT(refused("/proc/version", {.writable = false}).message, ContainsSubstring("size is zero"));
}

TEST_CASE("what cannot be a disk is refused with the reason") {
    const Folder folder;
    CHECK(refused(folder.path + "/missing.img").code == ENOENT);
    CHECK_THAT(refused(folder.path).message, ContainsSubstring("a directory"));
    CHECK_THAT(refused(folder.file("empty.img", 0)).message, ContainsSubstring("size is zero"));
    CHECK_THAT(refused(folder.file("tiny.img", 100)).message, ContainsSubstring("100 bytes"));
    CHECK_THAT(refused("/dev/null").message, ContainsSubstring("a character device"));
    const std::string fifo = folder.path + "/fifo";
    REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
    CHECK_THAT(refused(fifo).message, ContainsSubstring("a FIFO"));  // and it was not waited for
    const std::string loop = folder.path + "/loop";
    std::filesystem::create_symlink(loop, loop);
    CHECK(refused(loop).code == ELOOP);
}

TEST_CASE("a read-only file is a disk for reading only") {
    const Folder folder;
    const std::string path = folder.file("ro.img", 4096);
    REQUIRE(::chmod(path.c_str(), 0444) == 0);
    CHECK_THAT(refused(path).message, ContainsSubstring("read-only"));
    CHECK(blk::open_target(path, kAnywhere, {.writable = false}).ok());
}

TEST_CASE("a file that this user may not read") {
    const Folder folder;
    const std::string path = folder.file("secret.img", 4096);
    REQUIRE(::chmod(path.c_str(), 0600) == 0);
    REQUIRE(::chmod(folder.path.c_str(), 0755) == 0);
    if (::geteuid() != 0) SKIP("needs root, to become somebody else");
    REQUIRE(::seteuid(65534) == 0);
    const auto opened = blk::open_target(path, kAnywhere, {.writable = false});
    REQUIRE(::seteuid(0) == 0);
    REQUIRE_FALSE(opened.ok());
    CHECK(opened.error().code == EACCES);
    CHECK_THAT(opened.error().message, ContainsSubstring(path) && ContainsSubstring("Permission denied"));
}

TEST_CASE("the rules are asked about the real path, after all links") {
    const Folder folder;
    const std::string path = folder.file("a.img", 4096);
    const std::string link = folder.path + "/link.img";
    std::filesystem::create_symlink(path, link);
    CHECK(blk::open_target(link, kAnywhere, {}).ok());
    const blk::PathRules not_there{{"/"}, {path}};
    CHECK(refused(link, {}, not_there).code == EPERM);
    // A magic link has no path at all.
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    CHECK(refused("/proc/self/fd/" + std::to_string(fd.get()), {}).code == ELOOP);
}
