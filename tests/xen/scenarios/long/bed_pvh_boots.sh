# SPDX-License-Identifier: Apache-2.0
# The bed itself: a PVH guest reaches user space and obeys.
guest_start plain kind=pvh
assert_eq "$(guest_run plain uname -r)" "$(uname -r)" "the guest's kernel"
assert_eq "$(guest_run plain 'exit 7' || echo $?)" 7 'the status of a command'
assert_eq "$(guest_run plain 'head -c 100000 /dev/zero | sha256sum')" "$(head -c 100000 /dev/zero | sha256sum)"
guest_shutdown plain
