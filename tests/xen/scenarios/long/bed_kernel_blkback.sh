# SPDX-License-Identifier: Apache-2.0
# The bed itself: a guest reads a known sector through the kernel's own backend. When this fails, no other
# scenario's failure says anything about us.
. /bed/product.sh
kernel_blkback_start
truncate -s 64M disk.img
printf 'sector five of the disk' | dd of=disk.img bs=512 seek=5 conv=notrunc status=none
guest_start reader kind=pv disk="format=raw,vdev=xvda,access=rw,target=$PWD/disk.img"
assert_eq "$(guest_run reader 'dd if=/dev/xvda bs=512 skip=5 count=1 2>/dev/null | tr -d "\0"')" \
  'sector five of the disk' 'what the guest reads'
guest_run reader 'echo written by the guest | dd of=/dev/xvda bs=512 seek=9 conv=fsync 2>/dev/null'
guest_shutdown reader
assert_eq "$(dd if=disk.img bs=512 skip=9 count=1 status=none | tr -d '\0')" 'written by the guest' 'what the guest wrote'
