# SPDX-License-Identifier: Apache-2.0
setsid nbdkit --foreground null </dev/null >/dev/null 2>&1 &
