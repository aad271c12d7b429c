# SPDX-License-Identifier: Apache-2.0
# deadline: 900
# iperf3 between two guests on a Linux bridge and with the dom0, our backend and the kernel's in one boot, one after the other;
# and between two guests on the built-in switch. Reported, not gated: in emulation only the ratios say something.
. /bed/product.sh
settings=/etc/ringback/netbackd.toml
cp "$settings" "$PWD/netbackd.toml"
at_exit cp "$PWD/netbackd.toml" "$settings"
sed -i 's/^#names = .*/names = "lan0"/' "$settings"
bridge_start xenbr0

# stream NAME KIND WORD...: Mbit/s at the receiver, from guest two.
stream() {
  local name=$1 kind=$2
  shift 2
  guest_run -t 60 two "iperf3 $* -t 10 -J" >"$results/$name.$kind.json"
  echo "$name $kind $(jq '.end.sum_received.bits_per_second / 1e6 | floor' "$results/$name.$kind.json") Mbit/s" | tee -a "$results/summary"
}
# measure NAME VIF
measure() {
  guest_start one kind=pvh memory=384 tools=net vif="$2,mac=00:16:3e:00:00:61"
  guest_start two kind=pvh memory=384 tools=net vif="$2,mac=00:16:3e:00:00:62"
  guest_network one 2
  guest_network two 3
  guest_run one 'iperf3 -s -D'
  stream "$1" guests -c 10.9.0.2
  if [ "$1" != switch ]; then
    iperf3 -s -D -I "$PWD/server.pid"
    stream "$1" to-dom0 -c 10.9.0.1
    stream "$1" from-dom0 -c 10.9.0.1 -R
    kill "$(tr -d '\0' <server.pid)"
  fi
  guest_shutdown one
  guest_shutdown two
}

netback_start
measure switch script=vif-ringback,bridge=lan0
measure tap bridge=xenbr0
systemctl stop netbackd netback-worker
modprobe --ignore-install xen-netback
at_exit modprobe -r xen-netback
measure kernel bridge=xenbr0
for pair in switch:guests tap:guests tap:to-dom0 tap:from-dom0; do
  awk -v name="${pair%:*}" -v kind="${pair#*:}" '$2 == kind { value[$1] = $3 }
    END { printf "ratio %s %s %.2f\n", name, kind, value[name] / value["kernel"] }' "$results/summary" | tee -a "$results/summary.ratio"
done
