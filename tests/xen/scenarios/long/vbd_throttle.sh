# SPDX-License-Identifier: Apache-2.0
# deadline: 420
# A disk takes no more than it may; the limit is kept over a killed worker and a reboot of the guest; the guest's other disk and
# what comes after the limit are free of it.
. /bed/product.sh
ringback_start
truncate -s 64M slow.img free.img
guest_start slow kind=pv memory=384 tools=fio disk="$(our_disk "$PWD/slow.img")" disk="$(our_disk "$PWD/free.img" xvdb)"

# reads_in_10s DEVICE: how many requests fio has done in ten seconds of the guest's, with eight always under way.
reads_in_10s() {
  guest_run -t 60 slow "fio --name=r --filename=$1 --rw=randread --bs=4k --direct=1 --ioengine=libaio --iodepth=8 --time_based \
    --runtime=10 --output-format=json" | sed -n '/^{/,$p' | jq '.jobs[0].read.total_ios'
}
limit() { ringback status slow --json | jq -r ".[0].disks[] | select(.vdev == \"$1\") | .throttle.operations // 0"; }

ringback disk throttle slow xvda --iops 40 | tee throttle.out
assert_match "$(cat throttle.out)" '40 requests/s' 'the answer'
domid=$(xl domid slow)
limited=$(reads_in_10s /dev/xvda)
# The burst, what fio has under way when it starts to count, and a clock of the guest's that may be a little slow.
[ "$limited" -gt 40 ] && [ "$limited" -le 460 ] || fail "$limited requests in ten seconds at 40 a second"
free=$(reads_in_10s /dev/xvdb)
[ "$free" -gt $((2 * limited)) ] || fail "the other disk did $free requests beside $limited"
old=$(disk_worker)
kill -KILL "$old"
wait_until 40 'a successor' eval '[ "$(disk_worker)" != "$old" ] && [ -n "$(disk_worker)" ]'
wait_until 20 'the limit, by the successor' eval '[ "$(limit xvda)" = 40 ]'
limited=$(reads_in_10s /dev/xvda)
[ "$limited" -gt 40 ] && [ "$limited" -le 460 ] || fail "$limited requests in ten seconds after a kill"

xl reboot slow
wait_until 60 'the reboot' eval '[ "$(xl domid slow 2>/dev/null)" != "$domid" ] && xl domid slow >/dev/null 2>&1'
guest_wait_ready slow
assert_eq "$(limit xvda)" 40 'the limit after a reboot'
ringback disk throttle slow xvda --off
assert_eq "$(limit xvda)" 0 'the limit when it is lifted'
free=$(reads_in_10s /dev/xvda)
[ "$free" -gt $((2 * limited)) ] || fail "$free requests in ten seconds without a limit"
assert_fails ringback disk throttle nobody xvda --iops 5
rm -f /var/lib/ringback/throttle.json
guest_shutdown slow
