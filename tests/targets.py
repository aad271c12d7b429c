# SPDX-License-Identifier: Apache-2.0
"""targets.py BUILD TEST...: what ninja has to build for these tests."""
import json
import os
import subprocess
import sys

build, names = sys.argv[1], set(sys.argv[2:])


def introspect(what):
    return json.loads(subprocess.check_output(["meson", "introspect", what, build]))


files = {target["id"]: target["filename"] for target in introspect("--targets")}
tests = [test for test in introspect("--tests") if test["name"] in names]
missing = names - {test["name"] for test in tests}
if missing:
    sys.exit("no test is called " + ", ".join(sorted(missing)))
wanted = set()
for test in tests:
    wanted.add(test["cmd"][0])
    for target in test["depends"]:
        wanted.update(files[target])
print("\n".join(sorted(os.path.relpath(path, build) for path in wanted)))
