# SPDX-License-Identifier: Apache-2.0
# deadline: 240
# Xen 4.19 and later: backendtype=tap gives kind vbd3, which no kernel driver claims.
. /bed/product.sh
requires_release 13
ringback_start
truncate -s 64M disk.img
snapshot_before
guest_start tap kind=pvh disk="format=raw,backendtype=tap,vdev=xvda,access=rw,script=block-ringback,target=$PWD/disk.img"
[ -n "$(xenstore-list "/local/domain/0/backend/vbd3/$(xl domid tap)")" ] || fail 'the disk is not of kind vbd3'
guest_tree_survives tap /dev/xvda
xl block-attach tap "format=raw,backendtype=tap,vdev=xvdb,access=ro,script=block-ringback,target=$PWD/disk.img" 2>err &&
  fail 'an image in use was attached once more'
assert_match "$(cat err)" 'in use' 'the refusal'
xl block-detach tap xvdb
guest_shutdown tap
assert_nothing_left
