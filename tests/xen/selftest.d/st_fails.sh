# SPDX-License-Identifier: Apache-2.0
echo output before the failure
assert_eq 1 2 'a wrong number'
