// SPDX-License-Identifier: Apache-2.0
//
// A client's end of a hypercall socket. One request, one reply; a mutex keeps calls of different threads
// apart, since the libraries it serves promise nothing less. The core answers each call at once, so a call
// that takes longer than kCallTimeout means that the core is stopped or gone, and fails instead of hanging
// its caller for ever.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "hypervisor/embedded/abi.h"
#include "hypervisor/embedded/fd.h"

namespace ringback::xen::embedded {

struct CallResult {
    int error = 0;  // errno
    std::int64_t values[4] = {};
    std::vector<char> payload;
    std::vector<Fd> fds;

    template <typename T>
    const T* items() const {
        return reinterpret_cast<const T*>(payload.data());
    }
    std::size_t count(std::size_t item_size) const { return payload.size() / item_size; }
};

class CoreConnection {
  public:
    // The state directory: RINGBACK_CORE, or the default.
    static std::string directory();
    // "hypervisor" for the privileged domain, "guest.<domid>" for another.
    static std::string socket_name(std::uint16_t domid);
    // The domain a drop-in library acts for: RINGBACK_DOMID (a driver domain), or 0.
    static std::uint16_t default_domid();

    // Returns 0 or an errno.
    int open(std::uint16_t domid, bool close_on_exec = true);
    int open(const std::string& socket_path, bool close_on_exec = true);

    CallResult call(Op op, std::initializer_list<std::int64_t> args = {}, const void* payload = nullptr,
                    std::size_t length = 0);

    int fd() const { return socket_.get(); }
    std::uint16_t domid() const { return domid_; }
    ClientShared* shared() const { return shared_.as<ClientShared>(); }

  private:
    Fd socket_;
    Mapped shared_;
    std::uint16_t domid_ = 0;
    std::mutex mutex_;
    std::vector<char> buffer_;
};

}  // namespace ringback::xen::embedded
