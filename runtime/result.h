// SPDX-License-Identifier: Apache-2.0
//
// Result<T>: a value, or the one line that says why there is none.
//
// Every set-up path (opening an image, mapping a ring, reading the store) returns one. An Error carries the errno
// that decides what happens next and a text for a person: what was tried, on what, what came back. Building that text
// allocates, so the data path does not use this type: there a result is an int, zero or -errno, as io_uring has it.
// Exceptions are not used for any of this: the failure of one guest's device is an ordinary event here.
#pragma once

#include <cerrno>
#include <string>
#include <system_error>
#include <utility>
#include <variant>

#include "runtime/check.h"

namespace ringback {

struct Error {
    int code = EIO;       // an errno value, positive
    std::string message;  // one line, no trailing newline
};

// "tried: strerror(code)". `tried` names the action and its object: "open /srv/a.img".
[[nodiscard]] inline Error os_error(int code, std::string tried) {
    tried += ": ";
    tried += std::generic_category().message(code);
    return {code, std::move(tried)};
}

// The same for the errno that the call just made left behind.
[[nodiscard]] inline Error os_error(std::string tried) { return os_error(errno, std::move(tried)); }

template <typename T>
class [[nodiscard]] Result {
  public:
    Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
    Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

    [[nodiscard]] bool ok() const { return state_.index() == 0; }
    explicit operator bool() const { return ok(); }

    T& value() & {
        INVARIANT(ok());
        return std::get<0>(state_);
    }
    T&& value() && {
        INVARIANT(ok());
        return std::get<0>(std::move(state_));
    }
    const T& value() const& {
        INVARIANT(ok());
        return std::get<0>(state_);
    }
    T& operator*() & { return value(); }
    T* operator->() { return &value(); }
    [[nodiscard]] const Error& error() const {
        INVARIANT(!ok());
        return std::get<1>(state_);
    }

  private:
    std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
  public:
    Result() = default;
    Result(Error error) : error_(std::move(error)), ok_(false) {}

    [[nodiscard]] bool ok() const { return ok_; }
    explicit operator bool() const { return ok_; }
    void value() const { INVARIANT(ok_); }
    [[nodiscard]] const Error& error() const {
        INVARIANT(!ok_);
        return error_;
    }

  private:
    Error error_;
    bool ok_ = true;
};

}  // namespace ringback

// Evaluates to the value of a Result, or returns its Error from the enclosing function.
#define TRY(expression) TRY_NAMED(expression, __COUNTER__)
#define TRY_NAMED(expression, id) TRY_WITH(expression, id)
#define TRY_WITH(expression, id)                                       \
    ({                                                                 \
        auto try_result_##id = (expression);                           \
        if (!try_result_##id.ok()) return try_result_##id.error();     \
        std::move(try_result_##id).value();                            \
    })
