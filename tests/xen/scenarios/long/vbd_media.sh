# SPDX-License-Identifier: Apache-2.0
# deadline: 300
# Media that are no plain disk: a CD-ROM, and storage with sectors of 4096 bytes, on which the guest writes smaller pieces.
. /bed/product.sh
truncate -s 96M sectors.img
device=$(losetup --find --show --sector-size 4096 sectors.img)
at_exit losetup --detach "$device"
assert_eq "$(blockdev --getss "$device")" 4096 'the sector size of the storage'
head -c 1048576 /dev/urandom >cd.img
ringback_start
# Of a CD-ROM in a PVH guest Linux's frontend will know nothing.
for kind in pv pvh; do
  cd=()
  [ $kind = pvh ] || cd=(disk="devtype=cdrom,$(our_disk "$PWD/cd.img" xvdb ro)")
  guest_start media kind=$kind memory=384 tools=fio disk="$(our_disk "$device")" "${cd[@]}"

  assert_eq "$(guest_run media 'cat /sys/block/xvda/queue/physical_block_size')" 4096 'physical block size'
  assert_eq "$(guest_run media 'cat /sys/block/xvda/queue/logical_block_size')" 512 'logical block size'
  # Sectors that share one of the storage's, and odd offsets, many at once.
  guest_run -t 170 media 'fio --name=v --filename=/dev/xvda --direct=1 --ioengine=libaio --iodepth=16 --size=48m --io_size=8m --rw=randrw \
    --rwmixwrite=70 --bsrange=512-32k --blockalign=512 --verify=crc32c --verify_fatal=1 --do_verify=1 --output-format=terse \
    --terse-version=3' >fio.out || { cat fio.out >&2; fail 'fio on sectors of 4096 bytes'; }
  guest_tree_survives media /dev/xvda

  if [ $kind = pv ]; then
    assert_eq "$(guest_run media 'cat /sys/block/xvdb/removable /sys/block/xvdb/ro' | tr '\n' ' ')" '1 1 ' 'removable and read-only'
    assert_eq "$(guest_run media 'sha256sum </dev/xvdb')" "$(sha256sum <cd.img)" 'what is on the CD'
    assert_fails guest_run media 'dd if=/dev/zero of=/dev/xvdb bs=2048 count=1 oflag=direct'
  fi
  guest_shutdown media
done
# What the storage holds is what the guest had, for whoever reads it without us.
fsck.ext4 -fn "$device"
