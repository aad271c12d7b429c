// SPDX-License-Identifier: Apache-2.0
//
// The file descriptors and mappings of the embedded core and of the drop-in libraries. These libraries are
// loaded into other people's backends, so they link nothing of ours; that is why they do not use runtime/'s
// types.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <utility>

namespace ringback::xen::embedded {

class Fd {
  public:
    Fd() = default;
    explicit Fd(int fd) : fd_(fd) {}
    Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Fd& operator=(Fd&& other) noexcept {
        if (this != &other) reset(std::exchange(other.fd_, -1));
        return *this;
    }
    ~Fd() { reset(); }

    int get() const { return fd_; }
    explicit operator bool() const { return fd_ >= 0; }
    int release() { return std::exchange(fd_, -1); }
    void reset(int fd = -1) {
        if (fd_ >= 0) ::close(fd_);
        fd_ = fd;
    }

  private:
    int fd_ = -1;
};

class Mapped {
  public:
    Mapped() = default;
    Mapped(int fd, std::size_t size)
        : address_(::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)), size_(size) {
        if (address_ == MAP_FAILED) address_ = nullptr;
    }
    Mapped(Mapped&& other) noexcept
        : address_(std::exchange(other.address_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    Mapped& operator=(Mapped&& other) noexcept {
        if (this != &other) {
            if (address_ != nullptr) ::munmap(address_, size_);
            address_ = std::exchange(other.address_, nullptr);
            size_ = std::exchange(other.size_, 0);
        }
        return *this;
    }
    ~Mapped() {
        if (address_ != nullptr) ::munmap(address_, size_);
    }

    explicit operator bool() const { return address_ != nullptr; }
    char* bytes() const { return static_cast<char*>(address_); }
    std::size_t size() const { return size_; }
    template <typename T>
    T* as() const {
        return static_cast<T*>(address_);
    }

  private:
    void* address_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace ringback::xen::embedded
