# SPDX-License-Identifier: Apache-2.0
# deadline: 600
# A guest takes the driver off its disk and writes garbage into each of the disk's nodes. Its disk closes each time, and
# is there for the next boot; its other disk and another guest's fio notice nothing.
. /bed/product.sh
ringback_start
truncate -s 64M steady.img
truncate -s 16M wild.img
truncate -s 16M other.img
guest_start steady kind=pvh memory=384 tools=fio disk="$(our_disk "$PWD/steady.img")"
guest_start wild kind=pvh disk="$(our_disk "$PWD/wild.img")" disk="$(our_disk "$PWD/other.img" xvdb)"

guest_run -t 450 steady '
  rounds=0
  until [ -e /tmp/enough ]; do
    fio --name=v --filename=/dev/xvda --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw --bsrange=512-64k \
      --blockalign=512 --size=32m --io_size=6m --verify=crc32c --verify_fatal=1 --do_verify=1 --output-format=terse || exit 1
    rounds=$((rounds + 1))
  done
  test $rounds -gt 0' >fio.out 2>&1 &
fio=$!

guest_run -t 400 wild '
  front=device/vbd/51712
  back=$(xenstore-read $front/backend)
  backend_becomes() {
    tries=0
    until [ "$(xenstore-read $back/state)" = $1 ]; do
      tries=$((tries + 1))
      [ $tries -lt 400 ] || { echo "the backend is in $(xenstore-read $back/state), not $1, after $node=$value"; exit 1; }
      sleep 0.05
    done
  }
  node=none value=none
  echo vbd-51712 >/sys/bus/xen/drivers/vbd/unbind
  backend_becomes 6
  long=$(printf %01500d 9 | tr 0 9)
  attempts=0
  for node in ring-ref event-channel protocol ring-page-order num-ring-pages multi-queue-num-queues; do
    for value in "" -1 many "$long"; do
      xenstore-write -- $front/state 1
      backend_becomes 2
      # References that are none: whatever is made of the offer, nothing connects.
      xenstore-write -- $front/ring-ref 4000 $front/event-channel 4000 $front/protocol x86_64-abi
      xenstore-write -- $front/$node "$value" $front/state 3
      backend_becomes 5
      xenstore-write -- $front/state 6
      backend_becomes 6
      xenstore-rm $front/$node
      attempts=$((attempts + 1))
    done
  done
  node=state
  for value in "" -1 9 many "$long"; do
    xenstore-write -- $front/state 1
    backend_becomes 2
    xenstore-write -- $front/state "$value"
    backend_becomes 6
    attempts=$((attempts + 1))
  done
  node=backend value=nonsense
  xenstore-write -- $front/backend /local/domain/0/backend/vbd/0/0
  xenstore-write -- $front/backend $back
  xenstore-rm $front/ring-ref 2>/dev/null
  xenstore-rm $front/event-channel 2>/dev/null
  xenstore-write -- $front/state 1
  backend_becomes 2
  echo "$attempts attempts"' >wild.out || fail "$(tail -n 1 wild.out)"
assert_eq "$(tail -n 1 wild.out)" '29 attempts'

# Linux's blkfront does not take up a disk that it has left, whoever serves it; a new boot does.
domid=$(xl domid wild)
xl reboot wild
guest_wait_ready wild
guest_run wild '
  dd if=/dev/urandom of=/dev/xvdb bs=64k count=16 oflag=direct 2>/dev/null
  dd if=/dev/xvdb of=/dev/xvda bs=64k count=16 oflag=direct 2>/dev/null
  echo 3 >/proc/sys/vm/drop_caches
  cmp -n 1048576 /dev/xvda /dev/xvdb' || fail 'the disk is not served as before'

kill -0 $fio 2>/dev/null || { cat fio.out >&2; fail 'fio of the other guest ended'; }
guest_run steady 'touch /tmp/enough'
wait $fio || { cat fio.out >&2; fail 'fio of the other guest'; }
lines=$(journalctl -u blkbackd --no-pager -o cat | grep -c "vbd/$domid/51712") || :
[ "$lines" -lt 150 ] || fail "$lines lines about one disk in blkbackd's journal"
guest_shutdown wild
guest_shutdown steady
