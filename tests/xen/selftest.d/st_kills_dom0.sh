# SPDX-License-Identifier: Apache-2.0
echo 1 >/proc/sys/kernel/sysrq
echo o >/proc/sysrq-trigger
sleep 1000
