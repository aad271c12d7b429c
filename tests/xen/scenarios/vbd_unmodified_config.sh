# SPDX-License-Identifier: Apache-2.0
# deadline: 300
# Configs that know nothing of us, with the stock block script: a block device and a raw file boot, reboot and detach
# on us all the same.
. /bed/product.sh
ringback_start
truncate -s 64M phy.img file.img
loop=$(losetup -f --show phy.img)
at_exit losetup -d "$loop"
snapshot_before
guest_start plain kind=pvh disk="phy:$loop,xvda,w" disk="file:$PWD/file.img,xvdb,w"
guest_run plain 'set -e; for d in a b; do echo on xvd$d | dd of=/dev/xvd$d bs=512 conv=fsync 2>/dev/null; done'
assert_match "$(ringback status)" "$loop" 'ringback status'
xl reboot plain
guest_wait_ready plain
for d in a b; do
  assert_eq "$(guest_run plain "dd if=/dev/xvd$d bs=512 count=1 2>/dev/null | tr -d '\0'")" "on xvd$d" 'after a reboot'
done
xl block-detach plain xvdb
guest_shutdown plain
assert_nothing_left
assert_eq "$(dd if=file.img bs=512 count=1 status=none | tr -d '\0')" 'on xvdb' 'the raw file'
