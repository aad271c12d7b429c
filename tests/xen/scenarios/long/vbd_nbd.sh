# SPDX-License-Identifier: Apache-2.0
# deadline: 600
# A PV guest's disk is on an NBD server (nbdkit, Unix socket). Under fio on ext4 the server is killed and started again, then the
# worker is killed: no error, every block verifies, fsck is clean. Then the server stays away for longer than the reconnect time:
# the guest gets errors, and reads again when it is back.
. /bed/product.sh
truncate -s 128M disk.img
server=$PWD/nbd.sock
server_start() {
  rm -f "$server"
  nbdkit --foreground --unix "$server" file disk.img >>"$results/nbdkit.log" 2>&1 &
  server_pid=$!
  wait_until 20 'the NBD server' test -S "$server"
}
server_kill() {
  kill -KILL "$server_pid" 2>/dev/null || :
  wait "$server_pid" 2>/dev/null || :
}
at_exit server_kill
mkdir -p /etc/ringback
[ ! -e /etc/ringback/blkbackd.toml ] || { cp /etc/ringback/blkbackd.toml saved.toml && at_exit cp "$PWD/saved.toml" /etc/ringback/blkbackd.toml; }
[ -e saved.toml ] || at_exit rm -f /etc/ringback/blkbackd.toml
printf '[disk]\nnbd_reconnect_seconds = 30\n' >/etc/ringback/blkbackd.toml
ringback_start
assert_fails guest_start early kind=pv disk="$(our_disk "nbd+unix:///?socket=$server")"
server_start
guest_start victim kind=pv vcpus=2 memory=384 tools=fio disk="$(our_disk "nbd+unix:///?socket=$server")" \
  cmdline='xen_blkfront.max_queues=2 xen_blkfront.max_indirect_segments=64'
domid=$(xl domid victim)
assert_eq "$(guest_run victim 'cat /sys/block/xvda/size')" 262144 'the size in the guest'
fio_begin victim
for round in 1 2 3; do
  wait_until 90 'fio to be at work' fio_busy
  server_kill
  nap 3
  server_start
  answered=$(disk_status '.disks[0].counters | .reads + .writes')
  wait_until 60 "requests to be answered after the server's return $round" goes_on "$answered"
  kill -0 $fio 2>/dev/null || fail 'fio ended too early'
done
old=$(disk_worker)
wait_until 90 'fio to be at work' fio_busy
kill -KILL "$old"
after_kill "$old" 1
fio_end victim

server_kill
assert_fails guest_run -t 120 victim 'dd if=/dev/xvda of=/dev/null bs=4k count=1 iflag=direct'
server_start
nap 3
guest_run -t 60 victim 'dd if=/dev/xvda of=/dev/null bs=4k count=1 iflag=direct'
guest_shutdown victim
e2fsck -fn disk.img
