# SPDX-License-Identifier: Apache-2.0
# The shortest proof: a PV guest reads a sector through us and writes one.
. /bed/product.sh
ringback_start
truncate -s 64M disk.img
printf 'sector five of the disk' | dd of=disk.img bs=512 seek=5 conv=notrunc status=none
guest_start first kind=pv disk="$(our_disk "$PWD/disk.img")"
assert_eq "$(guest_run first 'dd if=/dev/xvda bs=512 skip=5 count=1 2>/dev/null | tr -d "\0"')" \
  'sector five of the disk' 'what the guest reads'
guest_run first 'echo written by the guest | dd of=/dev/xvda bs=512 seek=9 conv=fsync 2>/dev/null'
assert_match "$(ringback status)" 'first' 'ringback status'
guest_shutdown first
assert_eq "$(dd if=disk.img bs=512 skip=9 count=1 status=none | tr -d '\0')" 'written by the guest' 'what the guest wrote'
