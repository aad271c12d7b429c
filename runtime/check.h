// SPDX-License-Identifier: Apache-2.0
//
// INVARIANT: our own bugs end the process, with their place. Never used on anything a guest or the machine can cause.
#pragma once

#include <cstdio>
#include <cstdlib>

#define INVARIANT(condition)                                                                                 \
    do {                                                                                                 \
        if (__builtin_expect(!(condition), 0)) {                                                         \
            std::fprintf(stderr, "<2>%s:%d: %s: bug: %s is false\n", __FILE__, __LINE__, __func__,       \
                         #condition);                                                                    \
            std::abort();                                                                                \
        }                                                                                                \
    } while (false)
