// SPDX-License-Identifier: Apache-2.0
//
// What the control socket asks of a disk.
#include <unistd.h>

#include "blkback/device.h"

namespace ringback::blk {

void Device::resize(uint64_t bytes, std::function<void(Result<uint64_t>)> done) {
    if (image_ != ImagePhase::open) return done(Error{EBUSY, fmt::format("{} is not open", id_.text())});
    if (resizing_) return done(Error{EBUSY, fmt::format("{} is being resized", id_.text())});
    if (bytes != 0) {
        if (!writable_) return done(Error{EROFS, fmt::format("{} is read-only: it is not grown", id_.text())});
        if (bytes < geometry_.bytes || bytes % 512 != 0) {
            return done(Error{EINVAL, fmt::format("cannot resize {} from {} to {} bytes: a disk only grows, in sectors of "
                                                  "512", target_, geometry_.bytes, bytes)});
        }
        if (format_ == "nbd") {
            return done(Error{EOPNOTSUPP, fmt::format("{} has the size that its server told: grow it there, then detach and "
                                                      "attach the disk", target_)});
        }
        if (format_ != "raw") {
            return done(Error{EOPNOTSUPP, fmt::format("{} is {}: such an image is grown while no guest has it, with vdisk "
                                                      "resize", target_, format_)});
        }
        const auto file = open_target(target_, around_.rules, {true, direct_io_safe_, nullptr, false});
        if (!file) return done(file.error());
        if (file.value().block_device) {
            return done(Error{EINVAL, fmt::format("{} is a block device: grow it with its own tool (lvextend, ...), then "
                                                  "give no size", target_)});
        }
        if (bytes > file.value().bytes && ::ftruncate(file.value().fd.get(), static_cast<off_t>(bytes)) != 0) {
            return done(os_error(fmt::format("grow {} to {} bytes", target_, bytes)));
        }
    }
    resizing_ = true;
    request(MessageType::resize, [](Message&) {}, {}, [this, done = std::move(done)](const Answer& answer) {
        resizing_ = false;
        if (answer.error != 0) return done(Error{answer.error, answer.message.str()});
        geometry_ = answer.geometry;
        // The size before the state: the watch on the state is what makes the frontend look.
        const auto written = around_.store.update(directory_, [this](xen::Store::Update& update) {
            write_size(update);
            if (xen::parse_state(update.read("state")) == xen::XenbusState::connected) {
                update.write("state", static_cast<uint64_t>(xen::XenbusState::connected));
            }
            return true;
        });
        if (!written) return done(written.error());
        log::notice("{}: {} is {} bytes now", id_.text(), target_, geometry_.bytes);
        done(geometry_.bytes);
    });
}

void Device::ask_stats(std::function<void(const Answer&)> done) {
    if (asking_stats_) {  // a worker that hangs collects no more than one
        Answer busy{};
        busy.error = EBUSY;
        return done(busy);
    }
    asking_stats_ = true;
    request(MessageType::stats, [](Message&) {}, {}, [this, done = std::move(done)](const Answer& answer) {
        asking_stats_ = false;
        done(answer);
    });
}

void Device::limit(const Limit& limit, Reply done) {
    request(MessageType::limit, [&limit](Message& message) { message.body.limit = limit; }, {}, std::move(done));
}

Device::Readiness Device::readiness() const {
    if (refused_ || image_ == ImagePhase::failed) return Readiness::failed;
    return image_ == ImagePhase::open ? Readiness::ready : Readiness::waiting;
}

}  // namespace ringback::blk
