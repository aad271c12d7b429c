// SPDX-License-Identifier: Apache-2.0
//
// apply: an xl configuration and the pool are brought to agree.
//
// A vif without mac= gets the address that the pool holds for that NIC, drawn if need be. A mac= that the
// file has is taken into the pool for this guest. The file gets a uuid= if it has none, so that the guest
// stays itself when its name changes. The pool is changed first, in one transaction, and then the file; a
// crash in between is mended by the next run, which finds the same addresses.
//
// One question the file cannot answer: when its UUID or its addresses are another guest's in the pool, is it
// that guest under a new name or restored, or a copy of it? Then nothing is done unless the caller says.
#pragma once

#include "mac-pool/pool.h"
#include "mac-pool/xl_config.h"

namespace ringback::mac {

enum class Clone : uint8_t {
    ask,    // refuse, and say what the two answers would do
    keep,   // it keeps what its file says; the pool follows
    fresh,  // it is a copy: a UUID and addresses of its own, and the file follows
};

struct Applied {
    struct Nic {
        unsigned nic = 0;
        Mac mac;
        std::optional<Mac> before;  // what the file had
    };
    Guest guest;
    bool uuid_written = false;
    std::vector<Nic> nics;
    std::vector<std::string> notes;
};

// Changes the pool, and `config` in memory.
[[nodiscard]] Result<Applied> apply(Pool& pool, XlConfig& config, Clone clone);

}  // namespace ringback::mac
