# SPDX-License-Identifier: Apache-2.0
# deadline: 900
# fio in a guest on our disk, the kernel's blkback and QEMU's qdisk, one after the other in one boot, on the same file.
# Reports; judges nothing. Run by hand: tests/xen/bed run --payload DIR tests/xen/perf/perf_vbd.sh; figures end up in the
# scenario's log. Only the ratios mean anything: everything here is emulated.
. /bed/product.sh
truncate -s 256M disk.img
dd if=/dev/urandom of=disk.img bs=1M count=256 conv=notrunc status=none

# measure NAME DISK
measure() {
  guest_start "$1" kind=pvh memory=384 vcpus=1 tools=fio disk="$2"
  for job in 'randread 4k' 'randwrite 4k' 'read 64k'; do
    set -- "$1" "$2" $job
    guest_run -t 200 "$1" "fio --name=j --filename=/dev/xvda --direct=1 --ioengine=libaio --iodepth=32 --rw=$3 --bs=$4 \
      --size=256m --runtime=10 --ramp_time=2 --time_based --output-format=json" >"$results/$1-$3-$4.json"
    python3 - "$1" "$3" "$4" "$results/$1-$3-$4.json" <<'END'
import json, sys
text = open(sys.argv[4]).read()
job = json.loads(text[text.index("{"):])["jobs"][0]
side = job["write" if "write" in sys.argv[2] else "read"]
print(f"{sys.argv[1]:8} {sys.argv[2]:9} {sys.argv[3]:4} {side['iops']:9.0f} IOPS {side['bw'] / 1024:7.1f} MiB/s")
END
  done
  guest_shutdown "$1"
}

for round in 1 2; do
  ringback_start
  measure ours "$(our_disk "$PWD/disk.img")"
  ringback_stop
  modprobe --ignore-install xen-blkback
  measure kernel "format=raw,vdev=xvda,access=rw,target=$PWD/disk.img"
  modprobe -r xen-blkback
  measure qdisk "format=raw,vdev=xvda,access=rw,backendtype=qdisk,target=$PWD/disk.img"
done
