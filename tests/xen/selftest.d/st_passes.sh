# SPDX-License-Identifier: Apache-2.0
assert_fails false
[ -f /etc/bed-selftest ] || fail 'the payload is not in place'
assert_eq "$(stat -c %U:%a /usr/libexec/bed-selftest)" root:755 "the payload's file"
systemctl start bed-selftest.service
assert_eq "$(cat /run/bed-selftest)" started 'a unit of the payload'
rm /run/bed-selftest
