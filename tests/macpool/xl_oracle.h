// SPDX-License-Identifier: Apache-2.0
//
// What xl's own parser (libxlu) makes of a configuration.
#pragma once

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// Writes "name\nuuid\n" and each entry of vif with a newline to `out`; -1 if libxlu refuses the text or vif
// is no list of strings, -2 if `out` is too small.
int xl_oracle(const char* text, size_t length, char* out, size_t size);

#ifdef __cplusplus
}
#endif
