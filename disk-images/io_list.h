// SPDX-License-Identifier: Apache-2.0
//
// IoList: requests in the order they came, linked through Io::next. Owns nothing, allocates nothing.
//
// Thread: the owner of the image.
#pragma once

#include <utility>

#include "disk-images/image.h"

namespace ringback::image {

class IoList {
  public:
    [[nodiscard]] bool empty() const { return first_ == nullptr; }
    [[nodiscard]] Io& front() const { return *first_; }
    void push(Io& io) {
        io.next = nullptr;
        if (last_ != nullptr) {
            last_->next = &io;
        } else {
            first_ = &io;
        }
        last_ = &io;
    }
    Io& pop() {
        Io& io = *first_;
        first_ = io.next;
        if (first_ == nullptr) last_ = nullptr;
        io.next = nullptr;
        return io;
    }
    // All of it; this list is empty afterwards.
    IoList take() { return std::exchange(*this, IoList{}); }

  private:
    Io* first_ = nullptr;
    Io* last_ = nullptr;
};

}  // namespace ringback::image
