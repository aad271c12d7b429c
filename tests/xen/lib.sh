# SPDX-License-Identifier: Apache-2.0
#
# What a scenario finds: guests, waiting, assertions, and the account of what was left over.
# Sourced by dom0/agent into each scenario's shell, which runs as root inside the dom0 with `set -eu`,
# in a directory of its own ($PWD), which goes away afterwards. $results is kept on the host.

# --- Ending ---

fail() {
  printf 'FAIL: %s\n' "$*" >&2
  exit 1
}

skip() {
  printf 'SKIP: %s\n' "$*" >&2
  exit 77
}

requires_release() { [ "$bed_release" -ge "$1" ] || skip "needs Debian $1 or later"; }

# at_exit COMMAND...: done when the scenario ends, however it ends, the latest first.
at_exit_commands=()
at_exit() { at_exit_commands+=("$(printf '%q ' "$@")"); }
run_at_exit() {
  local index
  set +e
  for ((index = ${#at_exit_commands[@]} - 1; index >= 0; index--)); do
    eval "${at_exit_commands[index]}"
  done
}

# --- Asserting and waiting ---

# assert_eq ACTUAL EXPECTED [WHAT]
assert_eq() { [ "$1" = "$2" ] || fail "${3:-value}: expected '$2', got '$1'"; }

# assert_match TEXT EXTENDED-REGULAR-EXPRESSION [WHAT]
assert_match() { [[ $1 =~ $2 ]] || fail "${3:-text}: '$1' does not match '$2'"; }

# assert_fails COMMAND...: it must not succeed; its output is in $output.
assert_fails() {
  if output=$("$@" 2>&1); then fail "succeeded, and should not have: $*"; fi
}

# A sleep without a process.
nap() {
  local nothing
  [ -n "${nap_fd:-}" ] || exec {nap_fd}<> <(:)
  read -r -t "$1" -u "$nap_fd" nothing || :
}

# wait_until SECONDS WHAT COMMAND...: until the command succeeds.
wait_until() {
  local until=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    [ $SECONDS -lt "$until" ] || fail "waited in vain for $what"
    nap 0.1
  done
}

# --- Guests ---

guest_log() { echo "/var/log/xen/console/guest-$1.log"; }

# guest_config NAME [KEY=VALUE...]: writes NAME.cfg. Keys: kind (pv, pvh or hvm), memory, vcpus, cmdline, tools=fio or net,
# disk (an xl disk line; repeat it for more), vif, extra (a line of xl.cfg as it stands).
guest_config() {
  local name=$1 kind=pvh memory=256 vcpus=1 cmdline='' kernel=/boot/guest-kernel ramdisk=$guest_files/ramdisk disks='' vifs='' extra='' cpus='' index
  shift
  while [ $# -gt 0 ]; do
    case $1 in
      kind=*) kind=${1#*=} ;;
      memory=*) memory=${1#*=} ;;
      vcpus=*) vcpus=${1#*=} ;;
      cmdline=*) cmdline=${1#*=} ;;
      tools=fio) ramdisk=$guest_files/ramdisk+fio ;;
      tools=net) ramdisk=$guest_files/ramdisk+net ;;
      disk=*) disks+="'${1#*=}', " ;;
      vif=*) vifs+="'${1#*=}', " ;;
      extra=*) extra+=${1#*=}$'\n' ;;
      *) fail "guest_config does not know '$1'" ;;
    esac
    shift
  done
  # Its device model, not the domain builder, loads an HVM guest's kernel, and wants it packed.
  [ "$kind" != hvm ] || kernel=/boot/vmlinuz-$(uname -r)
  # What QEMU's SVM needs: when a virtual CPU moves to another processor, a guest in hardware virtualization ends in a
  # triple fault sooner or later, whoever serves its disks; so they stay where they are. (tsc_mode: reading the time
  # without leaving the guest, since each exit is dear.)
  if [ "$kind" != pv ]; then
    for ((index = 1; index <= vcpus; index++)); do cpus+="'$((index % 2))', "; done
    extra+="cpus = [ $cpus ]"$'\n'
  fi
  cat >"$name.cfg" <<END
name = '$name'
type = '$kind'
memory = $memory
vcpus = $vcpus
kernel = '$kernel'
ramdisk = '$ramdisk'
cmdline = 'console=hvc0 $cmdline'
disk = [ $disks ]
vif = [ $vifs ]
tsc_mode = 'native'
on_crash = 'destroy'
$extra
END
}

# guest_create NAME: xl create on NAME.cfg, without waiting for its user space.
guest_create() {
  at_exit guest_discard "$1"
  guest_boots "$1" >"$1.boots"
  xl create "$1.cfg"
}

# The end of a scenario is no place to be polite.
guest_discard() {
  ! xl domid "$1" >/dev/null 2>&1 || timeout 60 xl destroy "$1"
}

# guest_start NAME [KEY=VALUE...]: config, creation, and its agent answers.
guest_start() {
  guest_config "$@"
  guest_create "$1"
  guest_wait_ready "$1"
}

# How often its user space has come up, ever.
guest_boots() {
  local count
  count=$(grep -c '^#~ ready' "$(guest_log "$1")" 2>/dev/null) || :
  echo "${count:-0}"
}

guest_came_up() { [ "$(guest_boots "$1")" -gt "$(cat "$1.boots")" ]; }

# guest_wait_ready NAME [SECONDS]: until it has come up once more than at the last call, or at its creation.
guest_wait_ready() {
  wait_until "${2:-120}" "$1's user space" guest_came_up "$1"
  echo $(($(cat "$1.boots") + 1)) >"$1.boots"
}

# guest_run [-t SECONDS] NAME COMMAND...: runs a shell command line in the guest. Its output and errors come out
# here, its status is returned.
guest_run() {
  local limit=60 name id tty log fd reader line rest encoded='' until status=''
  if [ "$1" = -t ]; then limit=$2; shift 2; fi
  name=$1
  shift
  id=$BASHPID.$RANDOM
  log=$(guest_log "$name")
  tty=$(xenstore-read "/local/domain/$(xl domid "$name")/console/tty")
  exec {fd}< <(exec tail -n 0 -f "$log")
  reader=$!
  # Once tail has the file open nothing can be missed.
  until [[ $(readlink /proc/$reader/fd/* 2>/dev/null) == *"$log"* ]]; do nap 0.02; done
  { base64 -w 512 <<<"$*" | sed 's/^/+/'; echo "=$id"; } >"$tty"
  until=$((SECONDS + limit))
  rest=''
  while [ $SECONDS -lt "$until" ]; do
    if ! IFS= read -r -t 1 -u "$fd" line; then rest+=$line; continue; fi
    line=$rest$line
    rest=''
    line=${line%$'\r'}
    case $line in
      "#~ $id | "*) encoded+=${line##* }$'\n' ;;
      "#~ $id end "*) status=${line#"#~ $id end "}; break ;;
    esac
  done
  kill "$reader" 2>/dev/null || :
  exec {fd}<&-
  [ -n "$status" ] || fail "$name did not answer in $limit s: $*"
  base64 -d <<<"$encoded" >"$name.output.$id"
  [ "$(stat -c %s "$name.output.$id")" = "${status#* }" ] || fail "$name: the answer was garbled on the console: $*"
  cat "$name.output.$id"
  rm "$name.output.$id"
  return "${status% *}"
}

domain_gone() { ! xl domid "$1" >/dev/null 2>&1; }

# guest_shutdown NAME [SECONDS]: asks it to, and waits until nothing of it is left, its xl included.
guest_shutdown() {
  xl shutdown "$1"
  wait_until "${2:-60}" "$1's end" domain_gone "$1"
}

guest_destroy() {
  xl destroy "$1"
  wait_until 30 "$1's end" domain_gone "$1"
}

# --- What is left over ---

# Lines that describe what a guest or a disk may leave behind, in comparable form.
host_state() {
  xl list | awk 'NR > 1 { print "domain " $1 }'
  # Directories that hold a child per domain come with the first one and stay.
  xenstore-ls -f | grep -v -E -e '^/local/domain/0/memory' -e '^(/libxl|/vm|/local/domain/0/backend(/[a-z0-9_]+)?) = ""' |
    sed 's/^/xenstore /'
  # Kernel threads have no arguments; the names of helpers that come and go by themselves are left out.
  ps -e -o ppid=,comm=,args= | awk '$1 != 2 && $2 != "kthreadd" { $1 = ""; print "process" $0 }' |
    grep -v -E -e '^process (ps|awk|sed|grep|sort|bash|tail|timeout|\(?udev-worker|systemd-udevd|systemd|agetty) ?' || :
  losetup -l -n -O BACK-FILE | sed 's/^/loop /'
  dmsetup ls 2>/dev/null | grep -v '^No devices' | sed 's/^/dm /' || :
  findmnt -rn -o TARGET | grep -v -e '^/run/user' -e /proc/sys/fs/binfmt | sed 's/^/mount /' || :
}

# Grants and event channels as Xen sees them, counted per domain: numbers of ports, frames and references change
# by themselves and say nothing.
hypervisor_state() {
  xl dmesg -c >/dev/null
  xl debug-keys g
  xl debug-keys e
  xl dmesg | awk '
    $2 == "grant-table" { owner = $5; count["grants of " owner " (table)"]++; next }
    $2 ~ /^\[0x/ && owner != "" { count["grants of " owner " in use"]++; next }
    /Event channel information for domain/ { sub(":", "", $NF); channels = $NF; owner = ""; next }
    /s=[0-9]/ && channels != "" {
      match($0, /s=[0-9]+/); kind = substr($0, RSTART, RLENGTH)
      peer = match($0, /d=[0-9]+/) ? substr($0, RSTART, RLENGTH) : ""
      count["channels of d" channels " " kind " " peer]++
    }
    END { for (what in count) print "xen " what ": " count[what] }'
}

whole_state() { { host_state; hypervisor_state; } | sort; }

# snapshot_before / assert_nothing_left: the same account that is taken around each whole scenario, for a part of
# one. What goes away by itself has 15 s to do so.
snapshot_before() { whole_state >state.before; }

# A guest that runs on has fewer grants in use than before when some that it keeps for us were idle: not left over.
nothing_left() {
  whole_state | awk '
    FNR == NR { if (/ in use: /) { count = $NF; sub(/: [0-9]+$/, ""); before[$0] = count }; next }
    / in use: / { count = $NF; sub(/: [0-9]+$/, ""); if (count < before[$0]) count = before[$0]; $0 = $0 ": " count }
    { print }' state.before - >state.after
  cmp -s state.before state.after
}

assert_nothing_left() {
  local until=$((SECONDS + 15))
  until nothing_left; do
    if [ $SECONDS -ge "$until" ]; then
      diff state.before state.after | grep '^[<>]' >&2
      fail "left over: $(diff state.before state.after | grep '^>' | head -n 1)"
    fi
    nap 0.5
  done
}
