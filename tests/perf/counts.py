#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds ring-bench's counts to their bars (docs/benchmarks.md). Counts only: times depend on the machine's other guests.
Usage: counts.py RING-BENCH"""
import json
import subprocess
import sys

BARS = {"notifies_per_request": 0.06, "grant_copies_per_request": 0.125, "grant_maps_per_request": 0,
        "allocations_per_request": 0, "errors": 0}
# Reads from the page cache complete in the call that submits them; writes come back one by one from a kernel thread.
READ_BARS = {"enters_per_request": 0.06}

run = subprocess.run([sys.argv[1], "--json", "--file-mib", "64", "--slices", "1", "--slice-seconds", "0.1"],
                     stdout=subprocess.PIPE, check=True, timeout=100)
broken = 0
for result in json.loads(run.stdout)["results"]:
    if result["depth"] != 32:
        continue
    bars = BARS | (READ_BARS if result["workload"] == "randread" else {})
    for name, bar in bars.items():
        verdict = "ok" if result[name] <= bar else "ABOVE"
        broken += verdict != "ok"
        print(f"{verdict:5} {result['workload']} {result['grants']} {name} {result[name]:.4f}, at most {bar}")
sys.exit(1 if broken else 0)
