# SPDX-License-Identifier: Apache-2.0
# deadline: 300
# shutdown, reboot and destroy, the last with I/O under way: all inside libxl's limits, with nothing left over.
. /bed/product.sh
ringback_start
truncate -s 64M disk.img
snapshot_before

guest_start life kind=pvh disk="$(our_disk "$PWD/disk.img")"
guest_run life 'echo before the reboot | dd of=/dev/xvda bs=512 conv=fsync 2>/dev/null'
domid=$(xl domid life)
xl reboot life
guest_wait_ready life
[ "$(xl domid life)" != "$domid" ] || fail 'the guest was not rebooted'
assert_eq "$(guest_run life 'dd if=/dev/xvda bs=512 count=1 2>/dev/null | tr -d "\0"')" 'before the reboot' 'the disk after a reboot'
guest_shutdown life
assert_nothing_left

guest_start busy kind=pv disk="$(our_disk "$PWD/disk.img")"
writes() { guest_run busy "awk '{ print \$5 }' /sys/block/xvda/stat"; }
guest_run busy 'while :; do dd if=/dev/zero of=/dev/xvda bs=64k count=512 oflag=direct; done </dev/null >/dev/null 2>&1 &'
before=$(writes)
writes_go_on() { [ "$(writes)" -gt $((before + 50)) ]; }
wait_until 30 'writes under way' writes_go_on
started=$SECONDS
guest_destroy busy
[ $((SECONDS - started)) -lt 15 ] || fail "xl destroy took $((SECONDS - started)) s"
assert_nothing_left
! xl list | grep -q 'null' || fail 'a dying domain is left'
