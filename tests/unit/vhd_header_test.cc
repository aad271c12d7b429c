// SPDX-License-Identifier: Apache-2.0
//
// VHD headers: both ways, sizes and geometries as QEMU has them, names of parents.
#include "vhd_fixture.h"

using namespace ringback;
using namespace ringback::image;
using namespace ringback::image::test;
using Catch::Matchers::ContainsSubstring;

TEST_CASE("vhd header: what is formatted is parsed back") {
    vhd::Footer footer;
    footer.data_offset = 512;
    footer.timestamp = 77;
    footer.original_bytes = 5U << 20;
    footer.current_bytes = 6U << 20;
    footer.chs = vhd::geometry_of(footer.current_bytes / 512);
    footer.id = vhd::random_uuid();
    const auto data = vhd::format_footer(footer);
    const vhd::Footer back = vhd::parse_footer(data, "f").value();
    CHECK(back.data_offset == 512);
    CHECK(back.timestamp == 77);
    CHECK(back.original_bytes == footer.original_bytes);
    CHECK(back.disk_bytes() == footer.current_bytes);
    CHECK(back.chs == footer.chs);
    CHECK(back.id == footer.id);
    CHECK(back.made_by("qem2"));
    for (const size_t at : {size_t{8}, size_t{20}, size_t{50}, size_t{64}, size_t{511}}) {
        auto bad = data;
        bad[at] ^= std::byte{1};
        CHECK_THAT(vhd::parse_footer(bad, "f").error().message, ContainsSubstring("checksum"));
    }
    auto none = data;
    none[0] = std::byte{'x'};
    CHECK_THAT(vhd::parse_footer(none, "f").error().message, ContainsSubstring("no VHD"));
}

TEST_CASE("vhd header: whose size counts") {
    vhd::Footer footer;
    footer.current_bytes = 100 * 1024 * 1024;
    footer.chs = {2, 4, 17};
    for (const char* creator : {"vpc ", "qemu"}) {
        std::memcpy(footer.creator.data(), creator, 4);
        CHECK(footer.disk_bytes() == uint64_t{2} * 4 * 17 * 512);
    }
    for (const char* creator : {"win ", "qem2", "tap\0", "d2v ", "CTXS", "vbox"}) {
        std::memcpy(footer.creator.data(), creator, 4);
        CHECK(footer.disk_bytes() == footer.current_bytes);
    }
    std::memcpy(footer.creator.data(), "vpc ", 4);
    footer.chs = vhd::kLargestChs;
    CHECK(footer.disk_bytes() == footer.current_bytes);
}

TEST_CASE("vhd header: geometries and rounded sizes are QEMU's") {
    TempDir dir;
    const std::string path = dir.path() + "/disk.vhd";
    for (const uint64_t bytes : {uint64_t{512}, uint64_t{1} << 20, uint64_t{69} << 20, uint64_t{512} << 20, uint64_t{504} << 21,
                                 (uint64_t{3} << 30) + 512, uint64_t{33} << 30, uint64_t{126} << 30,
                                 uint64_t{127} << 30, uint64_t{130} << 30}) {
        INFO(bytes);
        REQUIRE(shell("qemu-img create -q -f vpc " + path + " " + std::to_string(bytes)) == 0);
        const vhd::Footer theirs = layout_of(path).footer;
        CHECK(theirs.disk_bytes() == vhd::round_to_geometry(bytes));
        if (bytes < uint64_t{127} << 30) CHECK(theirs.chs == vhd::geometry_of(theirs.disk_bytes() / 512));
    }
}

TEST_CASE("vhd header: names of parents, as other hosts and programs write them") {
    const auto path_of = [](uint32_t platform, const std::vector<std::byte>& data) {
        return vhd::locator_path(platform, data).value_or("(none)");
    };
    for (const std::string name : {"base.vhd", "a b/ü€𝄞.vhd", "/srv/base.vhd", "../up.vhd"}) {
        for (const uint32_t platform : {vhd::kUri, vhd::kRelativeWindows}) {
            if (name.front() == '/' && platform == vhd::kRelativeWindows) continue;
            CHECK(path_of(platform, vhd::format_locator(platform, name)) == name);
        }
    }
    const auto bytes = [](const std::string& text) {
        std::vector<std::byte> data(text.size());
        std::memcpy(data.data(), text.data(), text.size());
        return data;
    };
    CHECK(path_of(vhd::kUri, bytes("file://./x%20y.vhd")) == "x y.vhd");
    CHECK(path_of(vhd::kUri, bytes("file:///srv/x.vhd")) == "/srv/x.vhd");
    CHECK(path_of(vhd::kUri, bytes("http://there/x.vhd")) == "(none)");
    CHECK(path_of(vhd::kUri, bytes("file://x%00y")) == "(none)");
    CHECK(path_of(vhd::kRelativeWindows, vhd::format_locator(vhd::kRelativeWindows, "C:/x.vhd")) == "C:/x.vhd");
    CHECK(path_of(vhd::kAbsoluteWindows, bytes("C\0:\0")) == "(none)");
}
