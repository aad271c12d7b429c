// SPDX-License-Identifier: Apache-2.0
//
// Co: a request's way through the image, written as a function that waits.
//
// What a write to a qcow2 image does (take a cluster, copy the rest of it, write, sync, put it in the table,
// write the table) is a sequence, and the safety of the format is in its order. As a coroutine it is read in
// that order; as a chain of callbacks it would not be. The usual price is not paid: frames come from a pool
// that is made with the image (FramePool: nothing is allocated), awaiting is a plain call where nothing has
// to be waited for, and a resumption is what a completion's callback costs.
//
//   Co<>        a part of a sequence: started by co_await, on the awaiting coroutine's stack; returns 0 or
//   -errno. Detached    a sequence of its own: runs when called, frees its frame at its end. WaitList
//   coroutines that wait for something other than the kernel. They are not resumed from inside whoever
//               wakes them, but by a task of the reactor (Wakeups): no recursion, and who wakes may go on
//               undisturbed.
//
// Every coroutine here is a member function of a class with frames(), where its frame comes from.
//
// Thread: the reactor's owner.
#pragma once

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <utility>

#include "disk-images/intrusive_list.h"
#include "runtime/check.h"
#include "runtime/reactor.h"

namespace ringback::image::qcow2 {

// Blocks of one size. As many as the image's operations can use at once: exhaustion is a bug.
class FramePool {
  public:
    static constexpr size_t kBlock = 2032;

    explicit FramePool(size_t count)
        : memory_(std::make_unique_for_overwrite<Block[]>(count)), left_(count) {}
    FramePool(const FramePool&) = delete;
    FramePool& operator=(const FramePool&) = delete;

    void* take(size_t bytes) {
        INVARIANT(bytes <= sizeof(Block::bytes));
        Block* block = free_;
        if (block != nullptr) {
            free_ = block->next;
        } else {
            INVARIANT(left_ > 0);
            block = &memory_[--left_];  // memory nobody has touched yet costs nothing
        }
        block->pool = this;
        return block->bytes;
    }
    static void give(void* frame) {
        auto* block = reinterpret_cast<Block*>(static_cast<std::byte*>(frame) - offsetof(Block, bytes));
        block->pool->push(block);
    }

  private:
    struct Block {
        FramePool* pool;
        Block* next;
        alignas(std::max_align_t) std::byte bytes[kBlock];
    };
    void push(Block* block) { block->next = std::exchange(free_, block); }

    std::unique_ptr<Block[]> memory_;
    size_t left_;
    Block* free_ = nullptr;
};

struct PooledFrame {
    template <typename Owner, typename... Arguments>
    static void* operator new(size_t bytes, Owner& owner, Arguments&&...) {
        return owner.frames().take(bytes);
    }
    static void operator delete(void* frame, size_t) { FramePool::give(frame); }
    [[noreturn]] static void unhandled_exception() noexcept { std::terminate(); }
};

class [[nodiscard]] Co {
  public:
    struct promise_type : PooledFrame {
        int32_t value = 0;
        bool awaited = false;  // the awaiting coroutine is suspended, and resumed at the end
        std::coroutine_handle<> awaiting;

        Co get_return_object() { return Co(std::coroutine_handle<promise_type>::from_promise(*this)); }
        std::suspend_always initial_suspend() noexcept { return {}; }
        struct Final {
            bool await_ready() noexcept { return false; }
            void await_suspend(std::coroutine_handle<promise_type> self) noexcept {
                promise_type& promise = self.promise();
                if (promise.awaited) promise.awaiting.resume();  // ends with this frame gone
            }
            void await_resume() noexcept {}
        };
        Final final_suspend() noexcept { return {}; }
        void return_value(int32_t result) { value = result; }
    };

    Co(Co&& other) noexcept : self_(std::exchange(other.self_, nullptr)) {}
    Co& operator=(Co&&) = delete;
    ~Co() {
        if (self_) self_.destroy();
    }

    bool await_ready() noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> awaiting) noexcept {
        self_.promise().awaiting = awaiting;
        self_.resume();
        if (self_.done()) return false;
        self_.promise().awaited = true;
        return true;
    }
    int32_t await_resume() noexcept { return self_.promise().value; }

  private:
    explicit Co(std::coroutine_handle<promise_type> self) : self_(self) {}
    std::coroutine_handle<promise_type> self_;
};

struct Detached {
    struct promise_type : PooledFrame {
        Detached get_return_object() { return {}; }
        std::suspend_never initial_suspend() noexcept { return {}; }
        std::suspend_never final_suspend() noexcept { return {}; }
        void return_void() {}
    };
};

struct Waiter {
    std::coroutine_handle<> handle;
    Waiter* next = nullptr;
};

class WaitList : public IntrusiveList<Waiter> {
  public:
    // co_await list.wait(): until somebody wakes it.
    struct Wait : Waiter {
        WaitList& list;
        explicit Wait(WaitList& to) : list(to) {}
        bool await_ready() const noexcept { return false; }
        void await_suspend(std::coroutine_handle<> self) noexcept {
            handle = self;
            list.push(*this);
        }
        void await_resume() const noexcept {}
    };
    Wait wait() { return Wait(*this); }
};

class Wakeups : private Task {
  public:
    explicit Wakeups(Reactor& reactor) : reactor_(reactor) {
        run = [](Task& self) noexcept {
            IntrusiveList<Waiter> now = static_cast<Wakeups&>(self).ready_.take();
            while (!now.empty())
                now.pop().handle.resume();
        };
    }
    Wakeups(const Wakeups&) = delete;
    Wakeups& operator=(const Wakeups&) = delete;

    void wake(Waiter& waiter) {
        ready_.push(waiter);
        reactor_.schedule(*this);
    }
    void wake_all(IntrusiveList<Waiter>& list) {
        while (!list.empty())
            wake(list.pop());
    }
    [[nodiscard]] bool idle() const { return !scheduled && ready_.empty(); }

  private:
    Reactor& reactor_;
    WaitList ready_;
};

// One coroutine at a time; in the order they came.
class Mutex {
  public:
    explicit Mutex(Wakeups& wakeups) : wakeups_(wakeups) {}
    struct Lock : WaitList::Wait {
        Mutex& mutex;
        explicit Lock(Mutex& which) : WaitList::Wait(which.waiting_), mutex(which) {}
        bool await_ready() const noexcept { return !std::exchange(mutex.locked_, true); }
    };
    Lock lock() { return Lock(*this); }
    void unlock() {
        if (waiting_.empty()) {
            locked_ = false;
        } else {
            wakeups_.wake(waiting_.pop());  // stays locked: it is his now
        }
    }

  private:
    Wakeups& wakeups_;
    bool locked_ = false;
    WaitList waiting_;
};

}  // namespace ringback::image::qcow2
