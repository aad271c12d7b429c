# SPDX-License-Identifier: Apache-2.0
# deadline: 480
# A PV guest's disk is a dynamic VHD: fio verifies what it wrote, a file system on it survives, and QEMU's tool and ours find
# the image whole afterwards. Then the same disk as the parent of a differencing one: the guest writes, the parent stays.
. /bed/product.sh
ringback_start
vdisk create disk.vhd 128M
guest_start vhd kind=pv vcpus=2 memory=384 tools=fio disk="$(our_disk "vhd:$PWD/disk.vhd")"
guest_run -t 200 vhd 'fio --name=v --filename=/dev/xvda --direct=1 --ioengine=libaio --iodepth=16 --numjobs=2 \
  --offset_increment=32m --size=32m --io_size=16m --rw=randrw --rwmixwrite=70 --bsrange=512-256k --bs_unaligned=0 --blockalign=512 \
  --verify=crc32c --verify_fatal=1 --do_verify=1 --group_reporting --output-format=terse --terse-version=3' >fio.out || {
  cat fio.out >&2
  fail 'fio on a VHD'
}
guest_tree_survives vhd /dev/xvda
sum=$(guest_run -t 120 vhd 'sha256sum </dev/xvda')
assert_fails vdisk info disk.vhd
assert_match "$output" 'in use' 'the refusal of an image in use'
ringback status --json >"$results/status.json"
guest_shutdown vhd

vdisk check disk.vhd
qemu-img convert -f vpc -O raw disk.vhd qemu.raw
assert_eq "$(sha256sum <qemu.raw)" "$sum" 'what QEMU reads'
vdisk compare disk.vhd qemu.raw --strict
e2fsck -fn qemu.raw

vdisk create child.vhd -b disk.vhd
guest_start child kind=pv disk="$(our_disk "vhd:$PWD/child.vhd")"
guest_run -t 120 child 'set -e; mkdir -p /mnt; mount -t ext4 /dev/xvda /mnt; ls /mnt/a/8; echo new >/mnt/new; umount /mnt
  fsck.ext4 -fn /dev/xvda'
sum=$(guest_run -t 120 child 'sha256sum </dev/xvda')
guest_shutdown child
vdisk compare disk.vhd qemu.raw --strict
vdisk check child.vhd
vdisk convert child.vhd child.raw
assert_eq "$(sha256sum <child.raw)" "$sum" 'what the child holds'
vdisk commit child.vhd
vdisk check disk.vhd
vdisk compare disk.vhd child.raw --strict
