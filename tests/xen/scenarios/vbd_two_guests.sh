# SPDX-License-Identifier: Apache-2.0
# deadline: 420
# Two guests with four disks each, all busy at once; every disk ends with its own content.
. /bed/product.sh
ringback_start
for guest in left right; do
  disks=()
  for n in a b c d; do
    truncate -s 24M $guest-$n.img
    disks+=("disk=$(our_disk "$PWD/$guest-$n.img" xvd$n)")
  done
  kind=pv
  [ $guest = left ] || kind=pvh
  guest_config $guest kind=$kind "${disks[@]}"
  guest_create $guest
done
guest_wait_ready left
guest_wait_ready right
for guest in left right; do
  guest_run -t 200 $guest "
    for n in a b c d; do
      (yes '$guest '\$n | dd of=/dev/xvd\$n bs=64k count=320 iflag=fullblock oflag=direct 2>/dev/null; sync) &
    done; wait" &
  pids+=" $!"
done
for pid in $pids; do wait "$pid"; done
for guest in left right; do
  guest_shutdown $guest
  for n in a b c d; do
    cmp <(yes "$guest $n" | head -c $((320 * 65536))) <(head -c $((320 * 65536)) $guest-$n.img) ||
      fail "the content of $guest-$n"
  done
done
