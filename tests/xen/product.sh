# SPDX-License-Identifier: Apache-2.0
#
# What the scenarios of the disk backend share: our daemon or the kernel's own backend, one at a time. Sourced by a
# scenario that wants them: . /bed/product.sh

# The kernel's backend gone, ours up and ready.
ringback_start() {
  modprobe -r xen-blkback 2>/dev/null || :
  [ ! -d /sys/module/xen_blkback ] || fail "xen-blkback is loaded and does not go"
  systemctl start blkbackd || { journalctl -u blkbackd --no-pager -n 30 >&2; fail "blkbackd does not start"; }
  at_exit ringback_stop
}

ringback_stop() {
  systemctl stop blkbackd
  journalctl -u 'blkbackd*' -u 'blkback-worker@*' --no-pager -o short-monotonic >"$results/journal" 2>/dev/null || :
}

# The other way round, for comparisons.
kernel_blkback_start() {
  modprobe --ignore-install xen-blkback
  at_exit modprobe -r xen-blkback
}

# our_disk IMAGE [VDEV [ACCESS]]: an xl disk line served by us.
our_disk() { echo "format=raw,vdev=${2:-xvda},access=${3:-rw},script=block-ringback,target=$1"; }

# A tree of files with contents that can be checked, on an ext4 of its own; then unmounted, checked, mounted again and
# compared. Runs in the guest; $1 is the device.
guest_tree_survives() {
  guest_run -t 150 "$1" "
    set -e
    mkfs.ext4 -q $2
    mkdir -p /mnt; mount -t ext4 $2 /mnt
    for d in a b c d; do
      mkdir /mnt/\$d
      for f in 1 2 3 4 5 6 7 8; do dd if=/dev/urandom of=/mnt/\$d/\$f bs=8191 count=\$((f * 3)) 2>/dev/null; done
    done
    (cd /mnt && find . -type f | sort | xargs sha256sum) >/tmp/sums
    umount /mnt
    fsck.ext4 -fn $2
    echo 3 >/proc/sys/vm/drop_caches
    mount -t ext4 $2 /mnt
    (cd /mnt && sha256sum -c --quiet /tmp/sums)
    test \$(wc -l </tmp/sums) = 32
    umount /mnt"
}

# worker_confined PID DOMID: it has given up what docs/threat-model.md says.
worker_confined() {
  local field
  in_status() { awk -v name="$1:" '$1 == name { print $2 }' "/proc/$2/status"; }
  assert_eq "$(in_status Uid "$1")" $((1880000000 + $2)) "the worker's user"
  assert_eq "$(in_status Gid "$1")" 1880000000 "the worker's group"
  assert_eq "$(in_status NoNewPrivs "$1")" 1 'no new privileges'
  assert_eq "$(in_status Seccomp "$1")" 2 'a system call filter'
  for field in CapInh CapPrm CapEff CapBnd CapAmb; do assert_eq "$(in_status $field "$1")" 0000000000000000 "$field"; done
  for field in net mnt ipc; do
    [ "$(readlink "/proc/$1/ns/$field")" != "$(readlink /proc/self/ns/$field)" ] || fail "the worker is in this host's $field namespace"
  done
}

# --- Killed workers ---

# slow_device NAME MIB READ-MS WRITE-MS: /dev/mapper/NAME, on the scratch disk, on which every request takes this long: a worker
# that is killed leaves some in the kernel. Before ringback_start, so that it goes last.
slow_device() {
  modprobe dm-delay
  dmsetup create "$1" --table "0 $(($2 * 2048)) delay /dev/vdb 0 $3 /dev/vdb 0 $4"
  at_exit dmsetup remove --retry "$1"
}

# ext4 on the guest's xvda, and fio on it that writes and verifies until fio_end.
fio_begin() {
  domid=$(xl domid "$1")
  guest_run "$1" 'mkfs.ext4 -q /dev/xvda && mkdir -p /mnt && mount -t ext4 /dev/xvda /mnt'
  guest_run -t 1500 "$1" 'while [ ! -e /tmp/enough ]; do
    fio --name=v --directory=/mnt --direct=1 --ioengine=libaio --iodepth=16 --numjobs=2 --size=16m --io_size=48m --rw=randrw \
      --rwmixwrite=70 --bsrange=4k-128k --fallocate=none --verify=crc32c --verify_fatal=1 --do_verify=1 --fsync=64 \
      --group_reporting --output-format=terse --terse-version=3 || exit 1; done' >fio.out &
  fio=$!
}

# Nothing went wrong in the guest, nor on the disk.
fio_end() {
  guest_run "$1" 'touch /tmp/enough'
  wait $fio || { cat fio.out >&2; fail 'fio'; }
  ringback status --json >"$results/status.json"
  assert_eq "$(disk_status '.disks[0].counters.errors')" 0 'requests answered with an error'
  guest_run -t 120 "$1" 'umount /mnt && fsck.ext4 -fn /dev/xvda'
  assert_fails guest_run "$1" "dmesg | grep -E 'I/O error|blk_update_request|Buffer I/O|EXT4-fs error|blkfront.*(bad|invalid)'"
}

disk_status() { ringback status --json | jq -r ".[] | select(.domid == $domid) | $1"; }
disk_worker() { disk_status .worker_pid; }
disk_supervisor() { systemctl show -p MainPID --value blkbackd; }
# fio has requests under way: its own start takes longer than its work.
fio_busy() {
  local now
  now=$(disk_status '.disks[0].counters.in_flight') && [ -n "$now" ] && [ "$now" != null ] && [ "$now" -ge 8 ]
}
# More is answered than $1 (by this worker: they count from zero).
goes_on() {
  local now
  now=$(disk_status '.disks[0].counters | .reads + .writes') && [ -n "$now" ] && [ "$now" != null ] && [ "$now" -gt "$1" ]
}
# Another worker than $1 serves, the $2nd that took over.
replaced() {
  local now
  now=$(disk_worker) && [ -n "$now" ] && [ "$now" != 0 ] && [ "$now" != "$1" ] &&
    [ "$(disk_status '.disks[0].recoveries')" = "$2" ]
}
# after_kill OLD ROUND: a successor of worker OLD serves, fio goes on, and the disk's state is what it was.
after_kill() {
  wait_until 40 "a successor of worker $1" replaced "$1" "$2"
  assert_eq "$(xenstore-read "/local/domain/0/backend/vbd/$domid/51712/state")" 4 "the backend's state after kill $2"
  wait_until 60 "requests to be answered after kill $2" goes_on 0
  kill -0 $fio 2>/dev/null || fail 'fio ended too early'
}

# --- Virtual NICs ---

# The kernel's backend gone, ours up and ready.
netback_start() {
  modprobe -r xen-netback 2>/dev/null || :
  [ ! -d /sys/module/xen_netback ] || fail "xen-netback is loaded and does not go"
  systemctl start netbackd || { journalctl -u netbackd --no-pager -n 30 >&2; fail "netbackd does not start"; }
  at_exit netback_stop
}

netback_stop() {
  systemctl stop netbackd netback-worker
  journalctl -u netbackd -u netback-worker --no-pager -o short-monotonic >"$results/journal.net" 2>/dev/null || :
}

# bridge_start NAME [MTU]: a Linux bridge in the dom0 with an address of its own: 10.9.0.1/24 and fd09::1/64.
bridge_start() {
  ip link add name "$1" type bridge stp_state 0 forward_delay 0
  at_exit ip link delete "$1"
  ip link set "$1" mtu "${2:-1500}" up
  ip address add 10.9.0.1/24 dev "$1"
  ip address add fd09::1/64 dev "$1" nodad
}

# guest_network GUEST NUMBER [INTERFACE]: 10.9.0.NUMBER/24 and fd09::NUMBER/64.
guest_network() {
  guest_run "$1" "ip link set ${3:-eth0} up && ip address add 10.9.0.$2/24 dev ${3:-eth0} &&
    ip address add fd09::$2/64 dev ${3:-eth0} nodad"
}
