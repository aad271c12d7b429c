# SPDX-License-Identifier: Apache-2.0
# deadline: 480
# Addresses of vifs: a second guest with one in use does not start, and xl says whose it is; what the pool does not hold is
# reported and served; a pool that is not there keeps nobody waiting. (A migration to this host would be no second guest; the
# emulated hypervisor refuses to track a PV guest's dirty pages, so there is none.)
. /bed/product.sh
bridge_start xenbr0
export RINGBACK_MAC_POOL=sqlite:$PWD/pool.db
macpool init
cp /etc/ringback/netbackd.toml netbackd.toml
at_exit cp "$PWD/netbackd.toml" /etc/ringback/netbackd.toml
echo "mac_pool = '$RINGBACK_MAC_POOL'" >/etc/ringback/netbackd.toml
netback_start

guest_config one kind=pv memory=384 tools=net vif='bridge=xenbr0'
macpool apply one.cfg
mac=$(macpool allocate --guest one --nic 0)
uuid=$(sed -n 's/^uuid = "\(.*\)"$/\1/p' one.cfg)
guest_create one
guest_wait_ready one
guest_network one 2
guest_run one 'ping -c 2 -W 5 10.9.0.1'
vif_says() { ringback status --json | grep -q "$1"; }
wait_until 10 'the word of the pool' vif_says '"agrees"'

# The bridge has learned it, on the guest's port.
macpool scan --switch
other="sqlite:$PWD/other.db"
macpool --pool "$other" init
macpool --pool "$other" import --switch
assert_match "$(macpool --pool "$other" show "$mac")" "bridge xenbr0, port vif$(xl domid one).0" 'who has it'

guest_config thief kind=pv vif="bridge=xenbr0,mac=$mac"
assert_fails xl create thief.cfg
echo "$output"
assert_match "$output" "script: MAC $mac of guest thief \([-0-9a-f]{36}\)" 'what xl says'
assert_match "$output" "is in use on xenbr0 by guest one \($uuid\)" 'what xl says'
domain_gone thief || fail 'the refused guest is there'
assert_fails xl network-attach one bridge=xenbr0 mac="$mac"
assert_match "$output" "is in use on xenbr0 by guest one" 'what xl says'
# libxl leaves a vif whose script has failed to be taken away by hand.
xl network-detach one 1
guest_run one 'ping -c 2 -W 5 10.9.0.1'

# In the pool's ranges, and nobody's.
xl network-attach one bridge=xenbr0 mac=00:16:3e:ff:00:01
wait_until 10 'eth1 in the guest' guest_run one 'test -e /sys/class/net/eth1'
wait_until 10 'the report' vif_says 'has MAC 00:16:3e:ff:00:01, which the pool holds for nobody'
ringback status | tee status
grep -q 'MAC pool: guest one .* which the pool holds for nobody' status || fail 'ringback status does not say it'
journalctl -u netbackd --no-pager | grep -q 'MAC pool: guest one' || fail 'the journal does not have it'

# A pool that has gone.
mv pool.db away.db
systemctl restart netbackd
wait_until 10 'no answer' vif_says 'no answer yet'
xl network-attach one bridge=xenbr0 mac=00:16:3e:ff:00:02
wait_until 10 'eth2 in the guest' guest_run one 'test -e /sys/class/net/eth2'
mv away.db pool.db
wait_until 30 'the answer that came later' vif_says 'has MAC 00:16:3e:ff:00:02, which the pool holds for nobody'
guest_run one 'ping -c 2 -W 5 10.9.0.1'
guest_shutdown one
