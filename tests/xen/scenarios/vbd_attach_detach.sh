# SPDX-License-Identifier: Apache-2.0
# deadline: 240
# Disks come and go while the guest runs, more than once, and leave nothing behind.
. /bed/product.sh
ringback_start
truncate -s 32M root.img
truncate -s 48M extra.img
guest_start hot kind=pv disk="$(our_disk "$PWD/root.img")"
snapshot_before
for round in 1 2; do
  xl block-attach hot "$(our_disk "$PWD/extra.img" xvdb)"
  wait_until 10 'xvdb in the guest' guest_run hot 'test -b /dev/xvdb'
  assert_eq "$(guest_run hot 'blockdev --getsize64 /dev/xvdb')" $((48 << 20)) 'size'
  guest_run hot "echo round $round | dd of=/dev/xvdb bs=512 seek=$round conv=fsync 2>/dev/null"
  started=$SECONDS
  xl block-detach hot xvdb
  [ $((SECONDS - started)) -lt 10 ] || fail "block-detach took $((SECONDS - started)) s"
  assert_nothing_left
  assert_eq "$(dd if=extra.img bs=512 skip=$round count=1 status=none | tr -d '\0')" "round $round" 'what was written'
done
# Read-only.
xl block-attach hot "$(our_disk "$PWD/extra.img" xvdc ro)"
wait_until 10 'xvdc in the guest' guest_run hot 'test -b /dev/xvdc'
assert_eq "$(guest_run hot 'cat /sys/block/xvdc/ro')" 1 'read-only flag'
if guest_run hot 'echo no | dd of=/dev/xvdc bs=512 conv=fsync 2>/dev/null'; then fail 'wrote to a read-only disk'; fi
xl block-detach hot xvdc
guest_shutdown hot
