// SPDX-License-Identifier: Apache-2.0
//
// IntrusiveList: what waits, in the order it came, linked through T::next. Owns nothing, allocates nothing.
//
// Thread: the owner of the image.
#pragma once

#include <utility>

namespace ringback::image {

template <typename T>
class IntrusiveList {
  public:
    [[nodiscard]] bool empty() const { return first_ == nullptr; }
    [[nodiscard]] T& front() const { return *first_; }
    void push(T& item) {
        item.next = nullptr;
        if (last_ != nullptr) {
            last_->next = &item;
        } else {
            first_ = &item;
        }
        last_ = &item;
    }
    T& pop() {
        T& item = *first_;
        first_ = item.next;
        if (first_ == nullptr) last_ = nullptr;
        item.next = nullptr;
        return item;
    }
    // All of it; this list is empty afterwards.
    IntrusiveList take() { return std::exchange(*this, IntrusiveList{}); }

  private:
    T* first_ = nullptr;
    T* last_ = nullptr;
};

}  // namespace ringback::image
