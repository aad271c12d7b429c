#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""CPU seconds, bytes and peak memory of vdisk convert beside qemu-img convert, on the same files, alternated.
Usage: images.py VDISK [--size MIB] [--rounds N] [--directory DIR]

Reported, never asserted: it depends on the machine. Seconds are user and system time of the process (io_uring's own
threads included, as they belong to it); writing back is the kernel's and in neither figure. A round is both tools, one after
the other; the ratio is that of the medians."""
import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

arguments = argparse.ArgumentParser()
arguments.add_argument("vdisk")
arguments.add_argument("--size", type=int, default=1024, help="MiB of the source; half of it is data")
arguments.add_argument("--rounds", type=int, default=7)
arguments.add_argument("--directory", default=None, help="where (default: the temporary directory)")
options = arguments.parse_args()
MIB = 1 << 20

# Whoever is measured is started by this small process, so that its peak is its own.
MEASURE = r'''
import os, resource, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)
peak = 0
while process.poll() is None:
    try:
        with open("/proc/%d/status" % process.pid) as status:
            for line in status:
                if line.startswith("VmHWM"): peak = max(peak, int(line.split()[1]))
    except OSError:
        break
    os.sched_yield()
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(process.wait(), usage.ru_utime + usage.ru_stime, peak)
'''


def measure(command):
    text = subprocess.run([sys.executable, "-c", MEASURE, *command], capture_output=True, text=True, check=True).stdout
    status, seconds, peak = text.split()[-3:]
    if status != "0":
        sys.exit(f"{command} failed")
    return float(seconds), int(peak) / 1024


def make_source(path, megabytes):
    """Random data in runs of 16 MiB, with holes as long between them."""
    block = random.Random(1).randbytes(MIB)
    with open(path, "wb") as file:
        file.truncate(megabytes * MIB)
        for at in range(megabytes):
            if at // 16 % 2 == 0:
                file.seek(at * MIB)
                file.write(block[at % 4096:] + block[:at % 4096])


def remove(path):
    if os.path.exists(path):
        os.unlink(path)


def bench(name, ours, theirs, target):
    seconds = {"vdisk": [], "qemu-img": []}
    peaks = {"vdisk": [], "qemu-img": []}
    for _ in range(options.rounds):
        for tool, command in (("vdisk", ours), ("qemu-img", theirs)):
            remove(target)
            used, peak = measure(command)
            seconds[tool].append(used)
            peaks[tool].append(peak)
    ours_median, theirs_median = (statistics.median(seconds[tool]) for tool in ("vdisk", "qemu-img"))
    print(f"{name:<16} {ours_median:8.3f} s  {theirs_median:8.3f} s   ratio {ours_median / theirs_median:5.2f}"
          f"  ({min(seconds['vdisk']):.3f}-{max(seconds['vdisk']):.3f} / {min(seconds['qemu-img']):.3f}-{max(seconds['qemu-img']):.3f})"
          f"   peak {max(peaks['vdisk']):.0f} / {max(peaks['qemu-img']):.0f} MiB", flush=True)
    remove(target)


with tempfile.TemporaryDirectory(prefix="vdisk-perf-", dir=options.directory) as folder:
    def path(name):
        return os.path.join(folder, name)

    source = path("source.raw")
    make_source(source, options.size)
    subprocess.run(["qemu-img", "--version"], check=True)
    print(f"{options.size} MiB, half of it data; {options.rounds} rounds; CPU seconds: vdisk, qemu-img, ratio of medians (ranges)")
    formats = [("raw", "raw"), ("vhd", "vpc")]
    subprocess.run([options.vdisk, "create", "-q", path("probe.qcow2"), "1M"], capture_output=True, check=False)
    if os.path.exists(path("probe.qcow2")):
        formats.append(("qcow2", "qcow2"))
    for ours, theirs in formats:
        target = path("target." + ours)
        force = ["-o", "force_size=on"] if ours == "vhd" else []
        bench(f"raw -> {ours}", [options.vdisk, "convert", "-q", source, target],
              ["qemu-img", "convert", "-f", "raw", "-O", theirs, *force, source, target], target)
        if ours == "raw":
            continue
        image = path("image." + ours)
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", theirs, *force, source, image], check=True)
        bench(f"{ours} -> raw", [options.vdisk, "convert", "-q", image, path("target.raw")],
              ["qemu-img", "convert", "-f", theirs, "-O", "raw", image, path("target.raw")], path("target.raw"))
        bench(f"compare {ours}", [options.vdisk, "compare", "-q", image, source],
              ["qemu-img", "compare", "-q", "-f", theirs, "-F", "raw", image, source], path("none"))

    # As many bytes as a copy that finds the holes by reading; in memory if --directory is there.
    copy = path("copy.raw")
    wall = {"vdisk": [], "cp": []}
    for _ in range(options.rounds):
        for tool, command in (("vdisk", [options.vdisk, "convert", "-q", source, copy]), ("cp", ["cp", "--sparse=always", source, copy])):
            remove(copy)
            began = time.monotonic()
            subprocess.run(command, check=True)
            wall[tool].append(time.monotonic() - began)
    ours_median, theirs_median = (statistics.median(wall[tool]) for tool in ("vdisk", "cp"))
    print(f"raw -> raw       {ours_median:8.3f} s  {theirs_median:8.3f} s   wall, beside cp --sparse=always: {theirs_median / ours_median:.2f} of its rate")
    remove(copy)

    hole = path("hole.raw")
    with open(hole, "wb") as file:
        file.truncate(1 << 40)
    for ours, theirs in formats:
        target = path("hole-copy." + ours)
        bench(f"1 TiB hole, {ours}", [options.vdisk, "convert", "-q", hole, target],
              ["qemu-img", "convert", "-f", "raw", "-O", theirs, hole, target], target)
        counts = json.loads(subprocess.run([options.vdisk, "convert", "--json", hole, target], check=True, capture_output=True).stdout)
        print(f"    data read: {counts['bytes-read']} bytes")
        remove(target)
