#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Counts test cases in the logs of `meson test`. Usage: count.py LABEL TESTLOG.json
Prints the failures, then "PASSED FAILED". A Catch2 program counts as its test cases, any other test as one."""
import json
import re
import sys

label, path = sys.argv[1:3]
passed = failed = 0
with open(path, encoding="utf-8") as log:
    for line in log:
        test = json.loads(line)
        result = test["result"]
        output = test.get("stdout") or ""
        all_passed = re.search(r"All tests passed \(.* in (\d+) test cases?\)", output)
        some = re.search(r"^test cases:\s*\d+ \|(.*)$", output, re.M)
        if result == "SKIP":
            print(f"skipped {label}: {test['name']}")
            continue
        if result in ("OK", "EXPECTEDFAIL"):
            passed += int(all_passed.group(1)) if all_passed else 1
            continue
        counts = dict((word, int(n)) for n, word in re.findall(r"(\d+) (passed|failed)", some.group(1))) if some else {}
        passed += counts.get("passed", 0)
        failed += max(counts.get("failed", 0), 1)
        print(f"FAILED {label}: {test['name']} ({result})")
        print("\n".join("    " + text for text in (output + (test.get("stderr") or "")).splitlines()[-25:]))
print(passed, failed)
