// SPDX-License-Identifier: Apache-2.0
//
// Load: overlapping requests of many sizes on all queues of a disk, and a judge of each read. A sector may hold a write W
// if W was asked before the read was answered, and no other write to that sector was asked after W's answer and answered
// before the read was asked. Nothing else is promised, and nothing less.
#pragma once

#include <poll.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <random>
#include <string>
#include <vector>

#include "tools/frontend/blkfront.h"

namespace ringback::test {

inline constexpr uint64_t kSectors = 2048;
inline constexpr uint32_t kMaxSectors = 128;
inline constexpr uint64_t kNever = ~uint64_t{0};

// Every 8 bytes of a sector hold the number of the write that wrote it; 0: never written.
struct Write {
    uint64_t number = 0;
    uint64_t asked = 0;
    uint64_t answered = 0;
};

class Load {
  public:
    using Clock = std::chrono::steady_clock;

    Load(frontend::Blkfront& front, uint64_t seed) : front_(front), random_(seed), history_(kSectors, {Write{}}) {}

    // Keeps the queues busy until `condition` holds; false: nothing was answered for twenty seconds.
    template <typename Condition>
    bool run_until(Condition condition) {
        auto last = Clock::now();
        while (!condition()) {
            const uint64_t before = answers;
            step(true);
            const auto now = Clock::now();
            if (answers != before) last = now;
            else if (now > last + patience) return false;
        }
        return true;
    }
    bool drain() {
        auto last = Clock::now();
        while (in_flight_ > 0) {
            const uint64_t before = answers;
            step(false);
            if (answers != before) last = Clock::now();
            else if (Clock::now() > last + patience) return false;
        }
        return true;
    }
    [[nodiscard]] uint32_t in_flight() const { return in_flight_; }
    [[nodiscard]] std::string broken() const {
        for (size_t i = 0; i < front_.queue_count(); ++i) {
            if (!front_.queue(i).broken().empty()) return front_.queue(i).broken();
        }
        return {};
    }
    // Every sector once more, alone.
    bool read_all() {
        for (uint64_t sector = 0; sector < kSectors; sector += kMaxSectors) {
            ask(frontend::Op::read, sector, kMaxSectors, front_.queue(0));
            if (!drain()) return false;
        }
        return true;
    }

    std::chrono::seconds patience{60};
    uint64_t answers = 0, errors = 0, corrupt = 0, reads = 0, writes = 0;
    Clock::time_point last_answer = Clock::now();
    Clock::duration longest_gap{};

  private:
    struct Io {
        frontend::Request request;
        std::vector<uint64_t> data;
        uint64_t asked = 0;
        uint64_t number = 0;
        Load* load = nullptr;
        bool busy = false;
    };

    void step(bool more) {
        std::array<pollfd, 4> events{};
        const size_t queues = front_.queue_count();
        for (size_t i = 0; i < queues; ++i) {
            frontend::Queue& queue = front_.queue(i);
            while (more && ask_something(queue)) {
            }
            queue.push();
            (void)queue.reap();
            events[i] = {queue.fd(), POLLIN, 0};
        }
        if (::poll(events.data(), queues, 1) <= 0) return;
        for (size_t i = 0; i < queues; ++i) {
            if (events[i].revents != 0) (void)front_.queue(i).handle_event();
        }
    }
    bool ask_something(frontend::Queue& queue) {
        const uint64_t dice = random_() % 100;
        if (dice == 0) return ask(frontend::Op::flush, 0, 0, queue);
        const uint32_t longest = dice < 20 ? kMaxSectors : 16;
        const auto sectors = static_cast<uint32_t>(1 + random_() % longest);
        const uint64_t sector = random_() % (kSectors - sectors);
        return ask(dice < 60 ? frontend::Op::write : frontend::Op::read, sector, sectors, queue);
    }
    bool ask(frontend::Op op, uint64_t sector, uint32_t sectors, frontend::Queue& queue) {
        if (in_flight_ >= 96) return false;
        Io* io = nullptr;
        for (Io& candidate : ios_) {
            if (!candidate.busy) io = &candidate;
        }
        if (io == nullptr) io = &ios_.emplace_back();
        io->load = this;
        io->data.assign(sectors * 64, op == frontend::Op::write ? next_number_ : 0);
        io->request = {};
        io->request.op = op;
        io->request.sector = sector;
        io->request.length = sectors * 512;
        io->request.data = sectors > 0 ? reinterpret_cast<std::byte*>(io->data.data()) : nullptr;
        io->request.owner = io;
        io->request.done = [](frontend::Request& request, int status) {
            Io& done = *static_cast<Io*>(request.owner);
            done.load->answered(done, status);
        };
        if (!queue.submit(io->request)) return false;
        io->busy = true;
        io->asked = ++now_;
        ++in_flight_;
        if (op == frontend::Op::write) {
            io->number = next_number_++;
            for (uint64_t at = sector; at < sector + sectors; ++at) {
                history_[at].push_back({io->number, io->asked, kNever});
            }
        }
        return true;
    }
    void answered(Io& io, int status) {
        const uint64_t now = ++now_;
        io.busy = false;
        --in_flight_;
        ++answers;
        const auto time = Clock::now();
        longest_gap = std::max(longest_gap, time - last_answer);
        last_answer = time;
        if (status != 0) ++errors;
        const uint64_t first = io.request.sector;
        const uint64_t end = first + io.request.length / 512;
        if (io.request.op == frontend::Op::write) {
            ++writes;
            const uint64_t oldest = oldest_asked();
            for (uint64_t at = first; at < end; ++at) settle(history_[at], io, now, oldest);
        } else if (io.request.op == frontend::Op::read && status == 0) {
            ++reads;
            for (uint64_t at = first; at < end; ++at) {
                if (!allowed(history_[at], &io.data[(at - first) * 64], io.asked)) ++corrupt;
            }
        }
    }
    [[nodiscard]] uint64_t oldest_asked() const {
        uint64_t oldest = now_;
        for (const Io& io : ios_) oldest = io.busy ? std::min(oldest, io.asked) : oldest;
        return oldest;
    }
    // Notes the answer, and forgets what no read can be given any more.
    static void settle(std::vector<Write>& history, const Io& io, uint64_t now, uint64_t oldest) {
        uint64_t latest = 0;  // asked, among those answered before any read under way was asked
        for (Write& write : history) {
            if (write.number == io.number) write.answered = now;
            if (write.answered < oldest) latest = std::max(latest, write.asked);
        }
        std::erase_if(history, [&](const Write& write) { return write.answered < latest; });
    }
    static bool allowed(const std::vector<Write>& history, const uint64_t* data, uint64_t asked) {
        for (size_t i = 1; i < 64; ++i) {
            if (data[i] != data[0]) return false;
        }
        const auto found = std::find_if(history.begin(), history.end(),
                                        [&](const Write& write) { return write.number == data[0]; });
        if (found == history.end()) return false;
        return std::none_of(history.begin(), history.end(), [&](const Write& later) {
            return later.asked > found->answered && later.answered < asked;
        });
    }

    frontend::Blkfront& front_;
    std::mt19937_64 random_;
    std::deque<Io> ios_;
    std::vector<std::vector<Write>> history_;
    uint64_t now_ = 0;
    uint64_t next_number_ = 1;
    uint32_t in_flight_ = 0;
};

}  // namespace ringback::test
