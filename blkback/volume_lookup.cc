// SPDX-License-Identifier: Apache-2.0
#include "blkback/volume_lookup.h"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <optional>
#include <system_error>
#include <thread>

namespace ringback::blk {

struct VolumeLookup::Shared {
    UniqueFd answered;  // an eventfd
    std::optional<Result<void>> answer;
};

Result<std::unique_ptr<VolumeLookup>> VolumeLookup::start(EventLoop& loop, const image::lvm::Name& name, bool writable,
                                                          Done done) {
    const auto shared = std::make_shared<Shared>();
    shared->answered.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!shared->answered) return os_error(fmt::format("look up lvm:{}: create an event descriptor", name.text()));
    std::unique_ptr<VolumeLookup> lookup(new VolumeLookup(loop, shared));
    TRY(loop.watch(shared->answered.get(), EPOLLIN, [shared, done = std::move(done)](uint32_t) {
        uint64_t count = 0;
        if (::read(shared->answered.get(), &count, sizeof count) == sizeof count) done(*shared->answer);
    }));
    try {
        std::thread([shared, name, writable] {
            const auto volume = image::lvm::Lvm().activate(name, writable);
            shared->answer.emplace(volume ? Result<void>() : Result<void>(volume.error()));
            const uint64_t one = 1;
            (void)!::write(shared->answered.get(), &one, sizeof one);
        }).detach();
    } catch (const std::system_error& error) {
        return Error{error.code().value(), fmt::format("look up lvm:{}: start a thread: {}", name.text(), error.what())};
    }
    return lookup;
}

VolumeLookup::~VolumeLookup() { loop_.forget(shared_->answered.get()); }

}  // namespace ringback::blk
