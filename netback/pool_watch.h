// SPDX-License-Identifier: Apache-2.0
//
// PoolWatch: asks the site's MAC pool whether each vif has the address that the pool holds for its guest.
//
// The pool may be a locked file or a cluster that is down, and a guest does not wait for either: it is served, and the
// answer comes when it comes. So all of it (opening, reading the credentials, the calls) is done on a thread of its own,
// which is handed copies of questions and hands back copies of answers under one lock that is never held over a call. While
// the pool does not answer, the questions stay and are asked again.
//
// What differs is logged once, and stays in `status`; nothing is refused here. Whether an address is in use twice is
// decided without the pool (Supervisor::mac_refusal).
//
// Thread: the supervisor's, but for ask_all().
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "hypervisor/xenbus.h"
#include "mac-pool/active.h"
#include "mac-pool/config.h"
#include "runtime/event_loop.h"
#include "runtime/unique_fd.h"

namespace ringback::net {

class PoolWatch {
  public:
    [[nodiscard]] static Result<std::unique_ptr<PoolWatch>> start(EventLoop& loop, const mac::Config& pool);
    // Waits for a call that is under way: some seconds at most.
    ~PoolWatch();
    PoolWatch(const PoolWatch&) = delete;
    PoolWatch& operator=(const PoolWatch&) = delete;

    [[nodiscard]] bool knows(const xen::DeviceId& id) const { return findings_.contains(id); }
    // Once in a vif's life.
    void ask(const xen::DeviceId& id, const mac::ActiveVif& vif);
    void forget(const xen::DeviceId& id);
    // For `status`; null of a vif that was not asked about.
    [[nodiscard]] nlohmann::json describe(const xen::DeviceId& id) const;

  private:
    enum class State : uint8_t { asked, agrees, differs };
    struct Finding {
        uint64_t number = 0;  // of the question: a vif made anew has another one
        State state = State::asked;
        std::string text;
    };
    struct Question {
        uint64_t number = 0;
        mac::ActiveVif vif;
    };
    struct Answer {
        uint64_t number = 0;
        Result<std::optional<std::string>> text;
    };

    PoolWatch(EventLoop& loop, const mac::Config& pool, UniqueFd answered);
    void ask_all();
    [[nodiscard]] Result<std::optional<std::string>> consult(std::optional<mac::Pool>& pool, const mac::ActiveVif& vif);
    void take_answers();

    EventLoop& loop_;
    const mac::Config config_;
    UniqueFd answered_;  // an eventfd
    std::map<xen::DeviceId, Finding> findings_;
    uint64_t next_number_ = 1;
    bool silent_ = false;  // the pool did not answer, which was said

    std::mutex lock_;  // of what follows
    std::condition_variable wake_;
    std::deque<Question> questions_;
    std::vector<Answer> answers_;
    bool stopping_ = false;

    std::thread thread_;
};

}  // namespace ringback::net
