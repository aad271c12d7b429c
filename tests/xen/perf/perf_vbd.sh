# SPDX-License-Identifier: Apache-2.0
# deadline: 1800
# fio in a guest on our disk, the kernel's blkback and QEMU's qdisk, one after the other in one boot, on the same storage:
# a block device (a loop device with direct I/O on a file), three rounds, and that file, one round. On the file the kernel's
# backend and qdisk work in the dom0's page cache and ours past it, so only the device compares like with like. The last
# lines are the medians of the rounds and ours over the others'. Reports; judges nothing. Run by hand:
# tests/xen/bed run --payload DIR tests/xen/perf/perf_vbd.sh; figures end up in the scenario's log. Only the ratios mean
# anything: everything here is emulated.
. /bed/product.sh
truncate -s 256M disk.img
dd if=/dev/urandom of=disk.img bs=1M count=256 conv=notrunc status=none
device=$(losetup --find --show --direct-io=on disk.img)
at_exit losetup --detach "$device"

# measure BACKEND STORAGE DISK
measure() {
  local backend=$1 storage=$2 job
  guest_start "$backend" kind=pvh memory=384 vcpus=1 tools=fio disk="$3"
  for job in 'randread 4k' 'randwrite 4k' 'read 64k'; do
    guest_run -t 200 "$backend" "fio --name=j --filename=/dev/xvda --direct=1 --ioengine=libaio --iodepth=32 --rw=${job% *} \
      --bs=${job#* } --size=256m --runtime=10 --ramp_time=4 --time_based --output-format=json" >fio.json
    python3 - "$storage" "$backend" "$job" fio.json <<'END' | tee -a results
import json, sys
storage, backend, job, output = sys.argv[1:]
text = open(output).read()
result = json.loads(text[text.index("{"):])["jobs"][0]
side = result["write" if "write" in job else "read"]
print(f"{storage:7} {backend:7} {job:13} {side['iops']:9.0f} IOPS {side['bw'] / 1024:7.1f} MiB/s "
      f"{side['clat_ns']['mean'] / 1e6:7.2f} ms")
END
  done
  guest_shutdown "$backend"
}

for storage in device device device file; do
  target=$PWD/disk.img
  [ $storage = file ] || target=$device
  ringback_start
  measure ours $storage "$(our_disk "$target")"
  ringback_stop
  modprobe --ignore-install xen-blkback
  measure kernel $storage "format=raw,vdev=xvda,access=rw,target=$target"
  modprobe -r xen-blkback
  measure qdisk $storage "format=raw,vdev=xvda,access=rw,backendtype=qdisk,target=$target"
done

python3 - results <<'END'
import statistics, sys
runs = {}
for line in open(sys.argv[1]):
    storage, backend, *job = line.split()[:4]
    runs.setdefault((storage, " ".join(job)), {}).setdefault(backend, []).append(float(line.split()[4]))
for (storage, job), backends in runs.items():
    median = {name: statistics.median(values) for name, values in backends.items()}
    print(f"{storage:7} {job:13} ours {median['ours']:.0f} kernel {median['kernel']:.0f} qdisk {median['qdisk']:.0f} IOPS, "
          f"over kernel {median['ours'] / median['kernel']:.2f}, over qdisk {median['ours'] / median['qdisk']:.2f}")
END
