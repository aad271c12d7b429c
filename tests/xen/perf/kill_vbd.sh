# SPDX-License-Identifier: Apache-2.0
# deadline: 1500
# By hand: 60 workers killed under fio on ext4, each at a random moment; every tenth time blkbackd as well. 0 errors in the
# guest, every block verifies, fsck is clean. The disk is a slow block device, so that each kill finds requests under way. The
# pauses that blkbackd saw are in results/kill_vbd/pauses, in milliseconds.
. /bed/product.sh
slow_device slow 128 5 20
ringback_start
guest_start victim kind=pv vcpus=2 memory=384 tools=fio disk="$(our_disk /dev/mapper/slow)" \
  cmdline='xen_blkfront.max_queues=2 xen_blkfront.max_indirect_segments=64'
fio_begin victim
for ((round = 1; round <= 60; ++round)); do
  old=$(disk_worker)
  wait_until 90 'fio to be at work' fio_busy
  nap 0.$((RANDOM % 10))$((RANDOM % 10))
  if [ $((round % 10)) = 0 ]; then kill -KILL "$(disk_supervisor)" "$old"; else kill -KILL "$old"; fi
  after_kill "$old" $round
  disk_status '.disks[0].last_pause_ms' >>"$results/pauses"
done
fio_end victim
disk_status '.disks[0].counters.replayed' >"$results/replayed"
guest_shutdown victim
e2fsck -fn /dev/mapper/slow
