// SPDX-License-Identifier: Apache-2.0
#include "blkback/lookup.h"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <optional>
#include <system_error>
#include <thread>

namespace ringback::blk {

struct Lookup::Shared {
    UniqueFd answered;  // an eventfd
    std::optional<Result<void>> answer;
};

Result<std::unique_ptr<Lookup>> Lookup::start(EventLoop& loop, const std::string& name, Question question, Done done) {
    const auto shared = std::make_shared<Shared>();
    shared->answered.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!shared->answered) return os_error(fmt::format("look up {}: create an event descriptor", name));
    std::unique_ptr<Lookup> lookup(new Lookup(loop, shared));
    TRY(loop.watch(shared->answered.get(), EPOLLIN, [shared, done = std::move(done)](uint32_t) {
        uint64_t count = 0;
        if (::read(shared->answered.get(), &count, sizeof count) == sizeof count) done(*shared->answer);
    }));
    try {
        std::thread([shared, question = std::move(question)] {
            shared->answer.emplace(question());
            const uint64_t one = 1;
            (void)!::write(shared->answered.get(), &one, sizeof one);
        }).detach();
    } catch (const std::system_error& error) {
        return Error{error.code().value(), fmt::format("look up {}: start a thread: {}", name, error.what())};
    }
    return lookup;
}

Lookup::~Lookup() { loop_.forget(shared_->answered.get()); }

}  // namespace ringback::blk
