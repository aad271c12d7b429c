#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Whether netbench works: figures that can be, JSON and SVG that can be read, every frame whole, once and in order, and nothing left
behind by a run, a second one, one that is broken off, and one that cannot begin. How fast anything is is not judged.
Usage: netbench_smoke.py NETBENCH BUILD-DIRECTORY"""
import glob
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.dom.minidom

NETBENCH, BUILD = sys.argv[1:]
SKIPPED = 77
problems = []


def check(right, what):
    if not right:
        problems.append(what)
        print(f"FAILED {what}")


def ours():
    """Processes of this build, and what they would have left."""
    found = set()
    for exe in glob.glob("/proc/[0-9]*/exe"):
        try:
            if os.readlink(exe).startswith(BUILD + os.sep):
                found.add(os.readlink(exe))
        except OSError:
            pass
    with open("/proc/net/dev", encoding="utf-8") as file:
        found |= {line.split(":")[0].strip() for line in file if ":" in line}
    with open("/proc/mounts", encoding="utf-8") as file:
        found |= {line for line in file if " /mnt " in line or "netns" in line}
    return found


def run(*words, **more):
    return subprocess.run([NETBENCH, "--build", BUILD, *words], capture_output=True, text=True, timeout=100, **more)


def whole_run(directory):
    done = run("--quick", "--stacks", "switch,tap,bridge", "--sizes", "imix", "--json", "--plots", directory)
    check(done.returncode == 0, f"a quick run: {done.returncode} {done.stderr[-500:]}")
    if done.returncode != 0:
        return
    report = json.loads(done.stdout)
    check(report["faults"] == 0, "no frame is wrong, there twice or out of order")
    check({(r["stack"], r["size"]) for r in report["rates"]["results"]} == {(s, z) for s in ("switch", "tap", "bridge") for z in ("imix",)},
          "each stack has a rate")
    for r in report["rates"]["results"]:
        check(0 < r["mpps"]["median"] < 1000 and 0 <= r["lost"] < 1 and 0 < r["cpu_ns_per_packet"] < 1e9, f"a rate that can be: {r}")
    for r in report["latency"]["results"]:
        check(0 < r["p50"] <= r["p99"] <= r["max"] < 1e8, f"a latency that can be: {r}")
    for r in report["tcp"]["results"]:
        check(0 < r["gbit_s"]["median"] < 10000, f"a throughput that can be: {r}")
    first = report["cost"]["results"][0]
    # Counts, the same on every machine: the floors of SPECIFICATION.md.
    check(first["grant_operations_per_packet"] <= 2 and first["grant_calls_per_packet"] <= 1 / 8, f"grant copies: {first}")
    check(first["notifies_per_packet"] <= 1 / 16 and first["allocations_per_packet"] == 0 and first["lost"] == 0, f"notifications, allocations: {first}")
    check(report["cost"]["bytes_per_vif"] <= 96 * 1024, f"memory of a vif: {report['cost']['bytes_per_vif']}")
    plots = sorted(os.listdir(directory))
    check({"rates.svg", "cpu.svg", "tcp.svg"} <= set(plots), f"plots: {plots}")
    for name in plots:
        with open(os.path.join(directory, name), encoding="utf-8") as file:
            root = xml.dom.minidom.parseString(file.read()).documentElement
        check(root.tagName == "svg" and len(root.getElementsByTagName("rect")) > 3, f"{name} is a plot")


def broken_off():
    """On a terminal, ended by its Ctrl-C while it measures."""
    terminal, slave = pty.openpty()
    process = subprocess.Popen([NETBENCH, "--build", BUILD, "--stacks", "switch", "--sizes", "64", "--parts", "rates", "--rounds", "1000"], stdin=slave,
                               stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    shown, end = b"", time.monotonic() + 60
    while b"s left" not in shown and time.monotonic() < end:
        try:
            shown += os.read(terminal, 4096)
        except OSError:
            break
    check(b"[" in shown and b"Ringback's switch" in shown, f"a progress bar: {shown[-300:]}")
    os.killpg(process.pid, signal.SIGINT)
    try:
        check(process.wait(30) == 130, f"broken off: {process.returncode}")
    except subprocess.TimeoutExpired:
        check(False, "Ctrl-C ends it")
        process.kill()
    os.close(terminal)


def cannot_begin():
    for words, status, said in ((["--sizes", "63"], 2, "63"), (["--stacks", "none"], 2, "none"), (["--rounds", "0"], 2, "positive"),
                                (["--build", "/nowhere"], 2, "ninja -C /nowhere")):
        done = run(*words)
        check(done.returncode == status and said in done.stderr and "Traceback" not in done.stderr, f"{words}: {done.returncode} {done.stderr}")
    check("--plots" in run("--help").stdout, "--help")
    # A machine without iperf3.
    with tempfile.TemporaryDirectory() as directory:
        for program in ("ip", "mount"):
            os.symlink(shutil.which(program), os.path.join(directory, program))
        done = subprocess.run([sys.executable, NETBENCH, "--build", BUILD, "--quick", "--stacks", "switch"], capture_output=True, text=True,
                              timeout=60, env=os.environ | {"PATH": directory})
        check(done.returncode == 2 and "apt-get install iperf3" in done.stderr, f"without iperf3: {done.returncode} {done.stderr}")


missing = [p for p in ("ip", "iperf3", "mount") if shutil.which(p) is None]
if os.geteuid() != 0 or missing:
    print(f"skipped: needs root, {' '.join(missing)}")
    sys.exit(SKIPPED)
before = ours()
with tempfile.TemporaryDirectory() as plots:
    whole_run(plots)
check(ours() == before, f"left behind by a run: {ours() ^ before}")
broken_off()
check(ours() == before, f"left behind by one broken off: {ours() ^ before}")
cannot_begin()
check(ours() == before, f"left behind by one that cannot begin: {ours() ^ before}")
sys.exit(1 if problems else 0)
