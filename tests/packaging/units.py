#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Has systemd judge our units. Usage: units.py SYSTEMD-ANALYZE UNIT=PROGRAM...
Each unit is verified with its program where the build has put it, as systemd-analyze wants programs that exist; and what
our code relies on in the units is there."""
import os
import re
import subprocess
import sys
import tempfile

analyze = sys.argv[1]
failures = []
with tempfile.TemporaryDirectory() as folder:
    units = {}
    for pair in sys.argv[2:]:
        path, program = pair.split("=", 1)
        name = os.path.basename(path)
        with open(path, encoding="utf-8") as file:
            units[name] = file.read()
        text = re.sub(r"^ExecStart=\S+", "ExecStart=" + program, units[name], flags=re.M)
        # An instance, as systemd verifies no template.
        with open(os.path.join(folder, name.replace("@.", "@7.")), "w", encoding="utf-8") as file:
            file.write(text)
    for name in sorted(os.listdir(folder)):
        run = subprocess.run([analyze, "verify", "--man=no", "--recursive-errors=no", os.path.join(folder, name)], text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "LC_ALL": "C"})
        if run.returncode != 0 or name in run.stdout:
            failures.append(f"{name}: {run.stdout.strip() or run.returncode}")


def wants(unit, *lines):
    for line in lines:
        if line not in units[unit].splitlines():
            failures.append(f"{unit} lacks {line}")


# A restart of blkbackd leaves its sockets and journals, and touches no worker; a worker is never restarted by itself.
wants("blkbackd.service", "Type=notify", "Restart=always", "RuntimeDirectory=ringback", "RuntimeDirectoryPreserve=yes",
      "StartLimitIntervalSec=0")
wants("blkback-worker@.service", "Restart=no", "CollectMode=inactive-or-failed", "LimitMEMLOCK=infinity")
for bond in ("BindsTo=", "PartOf=", "Requires=", "Upholds="):
    if bond + "blkbackd" in units["blkback-worker@.service"]:
        failures.append(f"blkback-worker@.service ends with blkbackd ({bond})")
# What systemd itself finds open in a worker's unit; 0.4 of it is that it starts as root, and 0.3 what it needs to stop being so.
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "blkback-worker@7.service")
    with open(path, "w", encoding="utf-8") as file:
        file.write(units["blkback-worker@.service"])
    run = subprocess.run([analyze, "security", "--offline=true", "--threshold=15", "--no-pager", path], text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "LC_ALL": "C"})
    if run.returncode != 0 or "exposure level" not in run.stdout:
        failures.append(f"blkback-worker@.service is more exposed than 1.5: {run.stdout.strip()[-200:]}")
print("\n".join(failures) or f"{len(units)} units")
sys.exit(1 if failures else 0)
