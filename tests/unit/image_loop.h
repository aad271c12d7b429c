// SPDX-License-Identifier: Apache-2.0
//
// A loop device that goes away by itself with its last user (autoclear), for tests that need a block device.
// Takes a free one; needs root.
#pragma once

#include <linux/loop.h>
#include <sys/ioctl.h>

#include "image_fixture.h"

namespace ringback::image::test {

class LoopDevice {
  public:
    // `backing` is borrowed for the call only. Not ok(): there are no loop devices to be had here.
    LoopDevice(int backing, uint32_t block_size) {
        const UniqueFd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
        for (int attempt = 0; control && attempt < 16 && !device_; ++attempt) {
            const int number = ioctl(control.get(), LOOP_CTL_GET_FREE);
            if (number < 0) return;
            path_ = "/dev/loop" + std::to_string(number);
            UniqueFd device(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
            loop_config config{};
            config.fd = static_cast<uint32_t>(backing);
            config.block_size = block_size;
            config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
            // Another process may have taken it meanwhile.
            if (device && ioctl(device.get(), LOOP_CONFIGURE, &config) == 0) device_ = std::move(device);
        }
    }
    [[nodiscard]] bool ok() const { return static_cast<bool>(device_); }
    [[nodiscard]] const std::string& path() const { return path_; }
    // The backing file grew.
    void grow() const { REQUIRE(ioctl(device_.get(), LOOP_SET_CAPACITY, 0) == 0); }

  private:
    std::string path_;
    UniqueFd device_;
};

}  // namespace ringback::image::test
