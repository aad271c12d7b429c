// SPDX-License-Identifier: Apache-2.0
//
// Asked for JSON, newer LVM (2.03.31; 2.03.16 did not) tells its errors in there, and nothing on stderr: a volume that does not
// exist was refused with "ended with status 5".
#include <sys/stat.h>

#include <catch2/catch_test_macros.hpp>
#include <fstream>

#include "disk-images/lvm/lvm.h"
#include "../unit/image_fixture.h"

using namespace ringback;
using namespace ringback::image;

TEST_CASE("what LVM tells in its report's log is the error's text") {
    const image::test::TempDir dir;
    const std::string program = dir.path() + "/lvm";
    std::ofstream(program) << R"(#!/bin/sh
cat <<'END'
  {
      "report": [ { "lv": [ ] } ],
      "log": [
          {"log_seq_num":"1", "log_type":"error", "log_message":"Volume group \"none\" not found"},
          {"log_seq_num":"2", "log_type":"error", "log_message":"Cannot process volume group none"},
          {"log_seq_num":"3", "log_type":"status", "log_message":"failure"}
      ]
  }
END
exit 5
)";
    REQUIRE(::chmod(program.c_str(), 0755) == 0);
    const auto volume = lvm::Lvm(program).lookup({"none", "root"});
    REQUIRE_FALSE(volume.ok());
    CHECK(volume.error().message == "look up lvm:none/root: Volume group \"none\" not found; Cannot process volume group none");
}
