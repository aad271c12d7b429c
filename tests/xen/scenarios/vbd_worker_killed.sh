# SPDX-License-Identifier: Apache-2.0
# deadline: 420
# The worker is killed five times under fio on ext4; the guest sees no error, every block verifies, fsck is clean.
. /bed/product.sh
ringback_start
truncate -s 128M disk.img
guest_start victim kind=pv vcpus=2 memory=384 tools=fio disk="$(our_disk "$PWD/disk.img")" \
  cmdline='xen_blkfront.max_queues=2 xen_blkfront.max_indirect_segments=64'
domid=$(xl domid victim)
back=/local/domain/0/backend/vbd/$domid/51712
guest_run victim 'mkfs.ext4 -q /dev/xvda && mkdir -p /mnt && mount -t ext4 /dev/xvda /mnt'

disk_status() { ringback status --json | jq -r ".[] | select(.domid == $domid) | $1"; }
worker() { disk_status .worker_pid; }
answered() { disk_status '.disks[0].counters | .reads + .writes'; }
# I/O goes on: more is answered than before.
goes_on() { local now; now=$(answered) && [ "$now" != null ] && [ "$now" -gt "$1" ]; }
replaced() { local now; now=$(worker) && [ "$now" != 0 ] && [ "$now" != "$1" ] && [ "$(disk_status '.disks[0].recoveries')" = "$2" ]; }

guest_run -t 300 victim 'fio --name=v --directory=/mnt --direct=1 --ioengine=libaio --iodepth=16 --numjobs=2 --size=24m --io_size=48m \
  --rw=randrw --rwmixwrite=70 --bsrange=4k-128k --fallocate=none --verify=crc32c --verify_fatal=1 --do_verify=1 --fsync=64 \
  --group_reporting --output-format=terse --terse-version=3' >fio.out &
fio=$!
wait_until 60 'fio to be at work' goes_on 200
for round in 1 2 3 4 5; do
  old=$(worker)
  kill -KILL "$old"
  wait_until 30 "a successor of worker $old" replaced "$old" $round
  assert_eq "$(xenstore-read $back/state)" 4 "the backend's state after kill $round"
  kill -0 $fio 2>/dev/null || break  # fio was quicker than we
  wait_until 60 "requests to be answered after kill $round" goes_on 0
done
assert_eq $round 5 'kills while fio was at work'
wait $fio || { cat fio.out >&2; fail 'fio'; }
ringback status --json >"$results/status.json"
assert_eq "$(disk_status '.disks[0].recoveries')" 5 'recoveries in ringback status'
assert_eq "$(disk_status '.disks[0].counters.errors')" 0 'requests answered with an error'
guest_run -t 120 victim 'umount /mnt && fsck.ext4 -fn /dev/xvda'
assert_fails guest_run victim "dmesg | grep -E 'I/O error|blk_update_request|Buffer I/O|EXT4-fs error|blkfront.*(bad|invalid)'"
guest_shutdown victim
e2fsck -fn disk.img
