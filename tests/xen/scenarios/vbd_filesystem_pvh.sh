# SPDX-License-Identifier: Apache-2.0
# deadline: 300
# A PVH guest makes a file system on our disk, fills it, and finds everything again.
. /bed/product.sh
ringback_start
truncate -s 256M disk.img
guest_start files kind=pvh disk="$(our_disk "$PWD/disk.img")"
guest_tree_survives files /dev/xvda
guest_shutdown files
e2fsck -fn disk.img
