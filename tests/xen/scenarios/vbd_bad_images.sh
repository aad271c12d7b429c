# SPDX-License-Identifier: Apache-2.0
# deadline: 300
# What cannot be served is refused on xl's stderr, with what was tried, on what, and why; the guest it was meant for
# and its other disk are not disturbed, and nothing hangs or stays.
. /bed/product.sh
ringback_start
truncate -s 32M good.img
truncate -s 0 empty.img
truncate -s 32M readonly.img
chattr +i readonly.img
at_exit chattr -i "$PWD/readonly.img"
mkdir directory
snapshot_before
guest_start host kind=pvh disk="$(our_disk "$PWD/good.img")"

# refused TARGET PATTERN [ACCESS]
refused() {
  local started=$SECONDS
  assert_fails xl block-attach host "$(our_disk "$1" xvdb "${3:-rw}")"
  printf '%s\n---\n' "$output" >>"$results/refusals"
  assert_match "$output" "$2" "xl's words on $1"
  # libxl keeps the nodes of a disk it could not attach, until it is detached; that is quick as well.
  xl block-detach host xvdb
  [ $((SECONDS - started)) -lt 15 ] || fail "refusing $1 and detaching it took $((SECONDS - started)) s"
}
refused "$PWD/missing.img" "missing.img.*No such file"
refused "$PWD/directory" "directory"
refused "$PWD/empty.img" "empty"
refused "$PWD/readonly.img" "readonly.img.*(not permitted|ermission denied|ead-only)"
refused "bogus:$PWD/good.img" "bogus"
refused "$PWD/good.img" "in use"
assert_eq "$(xenstore-list "/local/domain/0/backend/vbd/$(xl domid host)")" 51712 'disks of the guest'
assert_eq "$(guest_run host 'dd if=/dev/xvda bs=1M count=4 iflag=direct 2>/dev/null | wc -c')" $((4 << 20)) 'the other disk'

# A guest whose disk is refused is not created, and leaves nothing.
guest_config nodisk kind=pvh disk="$(our_disk "$PWD/missing.img")"
assert_fails xl create nodisk.cfg
assert_match "$output" "missing.img.*No such file" "xl create's words"
guest_shutdown host
assert_nothing_left

# The daemon is down: an error that says so. (libxl itself gives a backend ten seconds.)
systemctl stop blkbackd
guest_config down kind=pvh disk="$(our_disk "$PWD/good.img")"
assert_fails xl create down.cfg
systemctl start blkbackd
