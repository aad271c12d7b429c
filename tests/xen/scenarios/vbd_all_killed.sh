# SPDX-License-Identifier: Apache-2.0
# deadline: 300
# blkbackd and the worker are killed at once, and blkbackd alone, under fio on ext4. The service manager starts blkbackd again; the
# guest sees no error, every block verifies, fsck is clean. The disk is a slow block device: writes of the dead are still under
# way when blkbackd is back.
. /bed/product.sh
slow_device slow 128 10 40
ringback_start
guest_start victim kind=pv vcpus=2 memory=384 tools=fio disk="$(our_disk /dev/mapper/slow)" \
  cmdline='xen_blkfront.max_queues=2 xen_blkfront.max_indirect_segments=64'
fio_begin victim
restarted() { local now; now=$(disk_supervisor) && [ "$now" != 0 ] && [ "$now" != "$1" ] && ringback status >/dev/null; }
adopted() { [ "$(disk_worker)" = "$1" ] && [ "$(disk_status '.disks[0].counters != null')" = true ]; }
round=0
for what in both alone both; do
  old=$(disk_worker) supervisor=$(disk_supervisor)
  wait_until 90 'fio to be at work' fio_busy
  if [ $what = both ]; then kill -KILL "$supervisor" "$old"; else kill -KILL "$supervisor"; fi
  wait_until 30 'another blkbackd' restarted "$supervisor"
  if [ $what = both ]; then
    round=$((round + 1))
    after_kill "$old" $round
  else
    wait_until 30 'the worker to be adopted' adopted "$old"
    wait_until 60 'requests to be answered' goes_on "$(disk_status '.disks[0].counters | .reads + .writes')"
  fi
done
fio_end victim
[ "$(disk_status '.disks[0].counters.replayed')" -gt 0 ] || fail 'no request was under way when the worker was killed'
guest_shutdown victim
e2fsck -fn /dev/mapper/slow
