// SPDX-License-Identifier: Apache-2.0
//
// The operations of the core whose arguments or answers are JSON: creating and describing domains, fault
// injection and counters. They are asked by tools and tests, never on a data path.
#pragma once

#include <string>

#include "hypervisor/embedded/core/hypercalls.h"
#include "hypervisor/embedded/core/store.h"

namespace ringback::xen::embedded {

class Admin {
  public:
    Admin(Hypervisor& hypervisor, Hypercalls& hypercalls, StoreServer& store)
        : hypervisor_(hypervisor), hypercalls_(hypercalls), store_(store) {}

    // `args` may be written: args[0] is the reply's first value.
    int handle(Op op, const std::string& payload, std::int64_t* args, std::string& reply);

  private:
    int create(const std::string& payload, std::int64_t& domid);
    int inject(const std::string& payload, std::string& reply);
    std::string counters();

    Hypervisor& hypervisor_;
    Hypercalls& hypercalls_;
    StoreServer& store_;
};

}  // namespace ringback::xen::embedded
