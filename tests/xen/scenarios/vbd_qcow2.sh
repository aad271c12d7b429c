# SPDX-License-Identifier: Apache-2.0
# deadline: 400
# A PV guest's disk is a qcow2 image on a backing file: it finds what the backing file has, makes a file system, fills it,
# and finds everything again; when it is gone the image is clean, and the backing file is what it was.
. /bed/product.sh
ringback_start
truncate -s 256M base.raw
qemu-io -f raw -c 'write -q -P 90 0 64M' base.raw
sum=$(sha256sum <base.raw)
qemu-img create -q -f qcow2 -F raw -b base.raw disk.qcow2
guest_start files kind=pv disk="$(our_disk "qcow2:$PWD/disk.qcow2")"
guest_tree_survives files /dev/xvda
guest_shutdown files
qemu-img check disk.qcow2
[ "$(sha256sum <base.raw)" = "$sum" ]
qemu-img convert -f qcow2 -O raw disk.qcow2 plain.raw
e2fsck -fn plain.raw
