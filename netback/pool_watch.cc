// SPDX-License-Identifier: Apache-2.0
#include "netback/pool_watch.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <exception>

#include "runtime/log.h"

namespace ringback::net {

namespace {

constexpr int kPatienceSeconds = 3;  // for one call; the end of netbackd may have to wait for it
constexpr std::chrono::seconds kPause{10};

// Of this guest's records; the same question later gets the same answer.
bool final(const Error& error) { return error.code == EEXIST || error.code == EUCLEAN; }

}  // namespace

Result<std::unique_ptr<PoolWatch>> PoolWatch::start(EventLoop& loop, const mac::Config& pool) {
    UniqueFd answered(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!answered) return os_error("create an event descriptor");
    std::unique_ptr<PoolWatch> watch(new PoolWatch(loop, pool, std::move(answered)));
    TRY(loop.watch(watch->answered_.get(), EPOLLIN, [self = watch.get()](uint32_t) { self->take_answers(); }));
    watch->thread_ = std::thread([self = watch.get()] { self->ask_all(); });
    return watch;
}

PoolWatch::PoolWatch(EventLoop& loop, const mac::Config& pool, UniqueFd answered)
    : loop_(loop), config_(pool), answered_(std::move(answered)) {}

PoolWatch::~PoolWatch() {
    loop_.forget(answered_.get());
    {
        const std::lock_guard guard(lock_);
        stopping_ = true;
    }
    wake_.notify_one();
    if (thread_.joinable()) thread_.join();
}

void PoolWatch::ask(const xen::DeviceId& id, const mac::ActiveVif& vif) {
    INVARIANT(!knows(id));
    findings_.emplace(id, Finding{next_number_, State::asked, "asked"});
    {
        const std::lock_guard guard(lock_);
        questions_.push_back({next_number_, vif});
    }
    ++next_number_;
    wake_.notify_one();
}

void PoolWatch::forget(const xen::DeviceId& id) {
    const auto found = findings_.find(id);
    if (found == findings_.end()) return;
    const std::lock_guard guard(lock_);
    std::erase_if(questions_, [&](const Question& question) { return question.number == found->second.number; });
    findings_.erase(found);
}

nlohmann::json PoolWatch::describe(const xen::DeviceId& id) const {
    const auto found = findings_.find(id);
    if (found == findings_.end()) return nullptr;
    const State state = found->second.state;
    return {{"state", state == State::asked ? "asked" : state == State::agrees ? "agrees" : "differs"},
            {"text", found->second.text}};
}

void PoolWatch::ask_all() {
    std::optional<mac::Pool> pool;
    std::unique_lock lock(lock_);
    while (true) {
        wake_.wait(lock, [this] { return stopping_ || !questions_.empty(); });
        if (stopping_) return;
        const Question question = questions_.front();
        lock.unlock();
        auto answer = consult(pool, question.vif);
        const bool later = !answer.ok() && !final(answer.error());
        if (later) pool.reset();
        lock.lock();
        // Unless the vif went meanwhile: to the end of the queue, or done.
        const auto place = std::find_if(questions_.begin(), questions_.end(), [&](const Question& other) {
            return other.number == question.number;
        });
        if (place != questions_.end()) {
            questions_.erase(place);
            if (later) questions_.push_back(question);
        }
        answers_.push_back({question.number, std::move(answer)});
        const uint64_t one = 1;
        (void)!::write(answered_.get(), &one, sizeof one);
        if (later) wake_.wait_for(lock, kPause, [this] { return stopping_; });
    }
}

Result<std::optional<std::string>> PoolWatch::consult(std::optional<mac::Pool>& pool, const mac::ActiveVif& vif) {
    // Whatever answers at an etcd's address must not end the daemon: JSON of another shape throws.
    try {
        if (!pool) {
            mac::Location location = TRY(mac::locate(config_));
            location.patience_seconds = kPatienceSeconds;
            const mac::Clock clock = mac::system_clock();
            pool.emplace(TRY(mac::Pool::open(TRY(mac::open_store(location, clock, mac::Open::existing)), clock)));
        }
        return mac::disagreement(*pool, vif);
    } catch (const std::exception& error) {
        return Error{EIO, config_.url + ": " + error.what()};
    }
}

void PoolWatch::take_answers() {
    uint64_t count = 0;
    (void)!::read(answered_.get(), &count, sizeof count);
    std::vector<Answer> answers;
    {
        const std::lock_guard guard(lock_);
        answers.swap(answers_);
    }
    for (const Answer& answer : answers) {
        const bool later = !answer.text.ok() && !final(answer.text.error());
        if (later && !silent_) {
            log::warning("MAC pool: {}; vifs are served meanwhile, and it is asked again", answer.text.error().message);
        } else if (!later && silent_) {
            log::notice("MAC pool: it answers again");
        }
        silent_ = later;
        const auto found = std::find_if(findings_.begin(), findings_.end(),
                                        [&](const auto& entry) { return entry.second.number == answer.number; });
        if (found == findings_.end()) continue;  // the vif went meanwhile
        Finding& finding = found->second;
        if (later) {
            finding.text = "no answer yet: " + answer.text.error().message;
            continue;
        }
        const std::optional<std::string> text =
            answer.text.ok() ? answer.text.value() : std::optional(answer.text.error().message);
        finding.state = text ? State::differs : State::agrees;
        finding.text = text.value_or("agrees");
        if (text) log::warning("{}: MAC pool: {}", found->first.text(), *text);
    }
}

}  // namespace ringback::net
