# SPDX-License-Identifier: Apache-2.0
# deadline: 600
# A PV guest on LVM volumes by name, a plain one and a thin one, which are activated for it: fio verifies, a killed worker and a
# reboot change nothing, the plain one grows under a mounted file system, the thin one gives back what the guest trims.
# What cannot be a guest's disk is refused.
. /bed/product.sh
# Whatever watches thin pools (dmeventd) is started by LVM and stays.
at_exit systemctl stop dm-event.socket dm-event.service
truncate -s 1G pv.img
loop=$(losetup --find --show pv.img)
at_exit losetup -d "$loop"
pvcreate -q "$loop"
vgcreate -q --setautoactivation n bedvg "$loop"
at_exit vgremove -q -f bedvg
lvcreate -q -y -L 64M -n plain bedvg
lvcreate -q -y -L 256M -T bedvg/pool
lvcreate -q -y -V 512M -T bedvg/pool -n thin
# Nothing is active, and the kernel has forgotten how thin volumes are done.
vgchange -q -a n bedvg
udevadm settle
modprobe -r dm-thin-pool
lvcreate -q -y -L 32M -n mounted bedvg
mkfs.ext4 -q /dev/bedvg/mounted
mkdir mnt
mount /dev/bedvg/mounted mnt
at_exit umount "$PWD/mnt"
ringback_start
active() { lvs --noheadings -o lv_active "bedvg/$1" | tr -d ' '; }

assert_eq "$(active plain)$(active thin)" '' 'volumes that are active before'
guest_start lvm kind=pv vcpus=2 memory=384 tools=fio disk="$(our_disk lvm:bedvg/plain)" disk="$(our_disk lvm:bedvg/thin xvdb)"
domid=$(xl domid lvm)
assert_eq "$(active plain) $(active thin)" 'active active' 'volumes with a guest'
lvm lvs -a --reportformat json --units b --nosuffix --binary -o +lv_path,lv_active,lv_device_open,segtype,lv_permissions,lv_role bedvg \
  >"$results/lvs.json"
guest_run -t 240 lvm 'fio --direct=1 --ioengine=libaio --iodepth=16 --size=48m --io_size=24m --rw=randrw --rwmixwrite=70 \
  --bsrange=512-256k --bs_unaligned=0 --blockalign=512 --verify=crc32c --verify_fatal=1 --do_verify=1 --group_reporting \
  --output-format=terse --terse-version=3 --name=a --filename=/dev/xvda --name=b --filename=/dev/xvdb' >fio.out || {
  cat fio.out >&2
  fail 'fio on volumes'
}

# --- Refusals ---

# refused TARGET PATTERN [ACCESS]
refused() {
  assert_fails xl block-attach lvm "$(our_disk "$1" xvdc "${3:-rw}")"
  printf '%s\n---\n' "$output" >>"$results/refusals"
  assert_match "$output" "$2" "xl's words on $1"
  xl block-detach lvm xvdc
}
refused lvm:bedvg/plain 'lvm:bedvg/plain is in use'
refused lvm:bedvg/mounted 'lvm:bedvg/mounted is in use'
refused lvm:bedvg/mounted '/dev/bedvg/mounted: this host itself uses it' ro
refused /dev/bedvg/mounted '/dev/bedvg/mounted: this host itself uses it'
refused lvm:bedvg/pool 'lvm:bedvg/pool is a thin pool'
refused lvm:bedvg/pool_tmeta 'lvm:bedvg/pool_tmeta is a part of another volume'
refused lvm:bedvg/nothing 'look up lvm:bedvg/nothing: Failed to find logical volume'
refused lvm:nogroup/nothing 'look up lvm:nogroup/nothing: Volume group "nogroup" not found'

# --- The plain one grows, through the death of its worker ---

guest_run lvm 'set -e; mkfs.ext4 -q /dev/xvda; mkdir -p /mnt; mount -t ext4 /dev/xvda /mnt; echo kept >/mnt/f; sync'
old=$(disk_worker)
kill -KILL "$old"
wait_until 40 'a successor of the worker' replaced "$old" 1
lvextend -q -L 128M bedvg/plain
ringback disk resize lvm xvda
wait_until 10 'the new size in the guest' guest_run lvm '[ "$(blockdev --getsize64 /dev/xvda)" = 134217728 ]'
guest_run -t 120 lvm 'set -e; resize2fs /dev/xvda; dd if=/dev/zero of=/mnt/large bs=1M count=80 conv=fsync; grep -q kept /mnt/f
  umount /mnt; fsck.ext4 -fn /dev/xvda'

# --- The thin one gives back ---

used() { lvs --noheadings -o data_percent bedvg/pool | tr -d ' ' | cut -d. -f1; }
less_than() { [ "$(used)" -lt "$1" ]; }
guest_run -t 120 lvm 'set -e; mkfs.ext4 -q /dev/xvdb; mount -t ext4 /dev/xvdb /mnt
  dd if=/dev/urandom of=/mnt/f bs=1M count=64 conv=fsync'
full=$(used)
guest_run -t 120 lvm 'set -e; rm /mnt/f; sync; fstrim -v /mnt; umount /mnt; fsck.ext4 -fn /dev/xvdb'
# 64 of 256 MiB are 25 %.
wait_until 10 "the pool, $full % full, to be emptied" less_than $((full - 20))

# --- Another life of the guest ---

xl reboot lvm
guest_wait_ready lvm
guest_run lvm 'set -e; mkdir -p /mnt; mount -t ext4 /dev/xvda /mnt; grep -q kept /mnt/f; umount /mnt'
guest_shutdown lvm
e2fsck -fn /dev/bedvg/plain
vdisk info lvm:bedvg/thin
