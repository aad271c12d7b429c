# SPDX-License-Identifier: Apache-2.0
# deadline: 360
# The worker and the supervisor are killed, apart and together, under a TCP stream: it goes on, and the port stays.
. /bed/product.sh
netback_start
bridge_start xenbr0
guest_start run kind=pvh memory=384 tools=net vif='bridge=xenbr0,mac=00:16:3e:00:00:41'
guest_network run 2
port=/sys/class/net/vif$(xl domid run).0
index=$(cat "$port/ifindex")
iperf3 -s -D -I "$PWD/server.pid" --logfile "$results/server"
at_exit sh -c "kill \$(tr -d '\\0' <$PWD/server.pid)"
guest_run run 'iperf3 -c 10.9.0.1 -t 60 -i 1 >/tmp/stream 2>&1 </dev/null &'
worker() { systemctl show -p MainPID --value netback-worker; }
supervisor() { systemctl show -p MainPID --value netbackd; }
new_worker() { [ "$(worker)" != "$1" ] && [ "$(worker)" != 0 ]; }
serves() { ringback status --json | jq -e '[.[].vifs[].ring] == ["connected"]' >/dev/null; }
nap 5
for what in worker supervisor both worker both; do
  old=$(worker)
  case $what in
    worker) kill -KILL "$old" ;;
    supervisor) kill -KILL "$(supervisor)" ;;
    both) kill -KILL "$(supervisor)" "$old" ;;
  esac
  [ "$what" = supervisor ] || wait_until 15 'a new worker' new_worker "$old"
  [ "$what" = worker ] || wait_until 15 'a supervisor that knows the vif' serves
  assert_eq "$(cat "$port/ifindex") $(cat "$port/carrier")" "$index 1" "the port and its carrier after the death of $what"
  wait_until 15 'the guest to be reached again' ping -c 1 -W 1 10.9.0.2
  nap 5
done
assert_eq "$(xenstore-read "/local/domain/$(xl domid run)/device/vif/0/state")" 4 "the frontend's state"
wait_until 60 'the end of the stream' guest_run run '! pidof iperf3 >/dev/null'
guest_run run 'cat /tmp/stream' >"$results/stream"
grep -q 'receiver' "$results/stream" || fail "the stream broke: $(tail -n 1 "$results/stream")"
guest_shutdown run
