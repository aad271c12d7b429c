// SPDX-License-Identifier: Apache-2.0
//
// Xen's xs_wire.h, which leaves to its reader what has to come before it: the integers, and the errors
// without which it has no table of their names.
#pragma once

#include <cerrno>
#include <cstdint>

// Behind them, whatever the alphabet says.
#include <xen/io/xs_wire.h>
