# SPDX-License-Identifier: Apache-2.0
# deadline: 300
# The worker is killed five times under fio on ext4; the guest sees no error, every block verifies, fsck is clean.
. /bed/product.sh
ringback_start
truncate -s 128M disk.img
guest_start victim kind=pv vcpus=2 memory=384 tools=fio disk="$(our_disk "$PWD/disk.img")" \
  cmdline='xen_blkfront.max_queues=2 xen_blkfront.max_indirect_segments=64'
fio_begin victim
worker_confined "$(disk_worker)" "$domid"
for round in 1 2 3 4 5; do
  old=$(disk_worker)
  wait_until 90 'fio to be at work' fio_busy
  kill -KILL "$old"
  after_kill "$old" $round
done
fio_end victim
[ "$(disk_status '.disks[0].counters.replayed')" -gt 0 ] || fail 'no request was under way when the worker was killed'
worker_confined "$(disk_worker)" "$domid"
assert_eq "$(disk_status '.disks[0].recoveries')" 5 'recoveries in ringback status'
guest_shutdown victim
e2fsck -fn disk.img
