# SPDX-License-Identifier: Apache-2.0
# deadline: 240
# A disk grows under a mounted file system, and the guest sees it without a remount.
. /bed/product.sh
ringback_start
truncate -s 64M disk.img
guest_start grow kind=pvh disk="$(our_disk "$PWD/disk.img")"
guest_run grow 'set -e; mkfs.ext4 -q /dev/xvda; mkdir -p /mnt; mount -t ext4 /dev/xvda /mnt; echo kept >/mnt/f'
ringback disk resize grow xvda 128M
wait_until 10 'the new size in the guest' guest_run grow '[ "$(blockdev --getsize64 /dev/xvda)" = 134217728 ]'
guest_run grow 'set -e; grep -q kept /mnt/f; dd if=/dev/urandom of=/dev/xvda bs=1M seek=120 count=4 oflag=direct 2>/dev/null'
if ringback disk resize grow xvda 32M 2>err; then fail 'a disk was shrunk'; fi
assert_match "$(cat err)" 'only grows' 'the refusal to shrink'
guest_run grow 'umount /mnt'
guest_shutdown grow
