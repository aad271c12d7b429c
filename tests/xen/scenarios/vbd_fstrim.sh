# SPDX-License-Identifier: Apache-2.0
# deadline: 240
# What the guest trims is freed in the backing file.
. /bed/product.sh
ringback_start
truncate -s 256M disk.img
guest_start trim kind=pvh disk="$(our_disk "$PWD/disk.img")"
guest_run trim 'set -e; mkfs.ext4 -q -E nodiscard /dev/xvda; mkdir -p /mnt; mount -t ext4 /dev/xvda /mnt
  dd if=/dev/urandom of=/mnt/f bs=1M count=64 2>/dev/null; sync'
full=$(stat -c %b disk.img)
guest_run trim 'set -e; rm /mnt/f; sync; fstrim -v /mnt; umount /mnt'
trimmed=$(stat -c %b disk.img)
[ $((full - trimmed)) -gt $((60 * 2048)) ] || fail "fstrim freed $((full - trimmed)) blocks of 512 bytes of $full"
guest_shutdown trim

# discard-enable=0: not offered at all.
guest_start untrimmed kind=pvh disk="no-discard,$(our_disk "$PWD/disk.img")"
assert_eq "$(guest_run untrimmed 'cat /sys/block/xvda/queue/discard_max_bytes')" 0 'discard with no-discard'
guest_shutdown untrimmed
