// SPDX-License-Identifier: Apache-2.0
//
// A guest that named bad grants wrote a line to the log for each: libxengnttab does so unless it is given a logger, and
// the journal of the host filled at the guest's pleasure. This program puts its own function in the library's place.
#include <catch2/catch_test_macros.hpp>
#include <cstdarg>
#include <cstdio>

#include <unistd.h>

#include "hypervisor/grants.h"

extern "C" {
#include <xentoollog.h>
}

namespace {
xentoollog_logger* given = nullptr;

void complain(xentoollog_logger* logger, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    logger->vmessage(logger, XTL_ERROR, 22, "xengnttab", format, arguments);
    va_end(arguments);
}
}  // namespace

extern "C" {
xengnttab_handle* xengnttab_open(xentoollog_logger* logger, unsigned) {
    given = logger;
    return nullptr;
}
}

TEST_CASE("the grant library is given a logger, and it swallows what a guest can cause") {
    CHECK_FALSE(ringback::xen::GrantTable::open().ok());
    REQUIRE(given != nullptr);
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    const int saved = dup(STDERR_FILENO);
    REQUIRE(dup2(ends[1], STDERR_FILENO) == STDERR_FILENO);
    complain(given, "mmap failed for %d", 7);
    fflush(stderr);
    dup2(saved, STDERR_FILENO);
    close(ends[1]);
    char byte;
    CHECK(read(ends[0], &byte, 1) == 0);
    close(ends[0]);
    close(saved);
}
