#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs each command of macpool twice, as text and as JSON, and the ways to call it wrongly. Usage: cli.py MACPOOL"""
import json
import os
import re
import subprocess
import sys
import tempfile

MACPOOL = os.path.abspath(sys.argv[1])
failures = 0


def check(what, fine):
    global failures
    if not fine:
        failures += 1
        print(f"FAILED: {what}")


def run(*words, status=0, stdin=""):
    done = subprocess.run([MACPOOL, *words], capture_output=True, text=True, timeout=60, input=stdin, check=False)
    check(f"{words}: status {done.returncode}, expected {status}: {done.stderr.strip()}", done.returncode == status)
    return done


def as_json(*words, status=0):
    text = run("--json", *words, status=status).stdout
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        check(f"{words}: not JSON: {text}", False)
        return {}


def twice(*words, status=0):
    """The second run must say what the first said."""
    first, second = run(*words, status=status), run(*words, status=status)
    check(f"{words}: a second run says something else: {first.stdout!r} {second.stdout!r}", first.stdout == second.stdout)
    return second.stdout


with tempfile.TemporaryDirectory() as directory:
    os.chdir(directory)
    os.environ["RINGBACK_MAC_POOL"] = f"sqlite:{directory}/pool.db"
    os.environ["XENSTORED_PATH"] = f"{directory}/nothing"
    uuid = "6f2c7c9e-1b1a-4f4e-8f3a-0123456789ab"

    for command in ["allocate --guest a --nic 0", "list", "stats", "export", "scan --host"]:
        check("no pool is said", "macpool init" in run(*command.split(), status=1).stderr)
    check("no place for a pool", f"make {directory}/a/b" in run("--pool", f"sqlite:{directory}/a/b/pool.db", "init", status=1).stderr)
    with open("empty", "w", encoding="utf-8") as file:
        file.write("")
    with open("text", "w", encoding="utf-8") as file:
        file.write("names and numbers\n" * 100)
    check("an empty file is no pool", "macpool init" in run("--pool", f"sqlite:{directory}/empty", "list", status=1).stderr)
    check("and stays empty", os.path.getsize("empty") == 0)
    for command in ("list", "init"):
        check("what is no database is said", "not a database" in run("--pool", f"sqlite:{directory}/text", command, status=1).stderr)
    check("and stays as it is", os.path.getsize("text") == 1800)
    os.remove("empty")
    os.remove("text")
    check("init", as_json("init", "00:16:3e", "--exclude", "00:16:3e:00", "--rest", "1h") ==
          {"pool": f"sqlite:{directory}/pool.db", "made": True, "size": 2**24 - 2**16})
    check("init again", as_json("init", "00:16:3e", "--exclude", "00:16:3e:00", "--rest", "1h")["made"] is False)
    check("init otherwise", "already" in as_json("init", status=1)["error"])
    for words in (["00:16:3e", "00:16:3e:01"], ["52:54:00:00:00:02-52:54:00:00:00:01"], ["01:00:5e"], ["00:16:3e", "--exclude", "52"]):
        check(f"init {words}", words[-1][:2] in run("init", *words, status=1).stderr)

    mac = twice("allocate", "--guest", "web", "--nic", "0").strip()
    check("a MAC address", re.fullmatch("00:16:3e(:[0-9a-f]{2}){3}", mac))
    lease = as_json("allocate", "--guest", "web", "--nic", "0")
    check("allocate as JSON", (lease["mac"], lease["fresh"], lease["guest"]) == (mac, False, {"name": "web", "uuid": None}))
    twice("reserve", "52:54:00:00:00:01", "--guest", uuid, "--nic", "3")
    twice("reserve", "52:54:00:00:00:02")
    check("reserve what is held", "held by web nic 0" in run("reserve", mac, status=1).stderr)
    for bad in ("52-54-00-00-00-01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "52:54:00:00:00"):
        check(f"reserve {bad}", f"'{bad}'" in as_json("reserve", bad, status=1)["error"])
    check("show", "web nic 0" in twice("show", mac) and mac in twice("show", "web") and "52:54:00:00:00:01" in twice("show", uuid))
    check("show nobody", as_json("show", "nobody", status=1)["error"])
    check("show what is not of the pool", as_json("show", "00:16:3e:00:00:01") == {"leases": [], "in_ranges": False})
    check("list", twice("list").count("\n") == 3 and len(as_json("list")) == 3)
    check("stats", as_json("stats")["in_use"] == 3 and "guests" in twice("stats"))
    check("a domid without Xen", "xenstored" in run("show", "7", status=1).stderr)

    with open("web.cfg", "w", encoding="utf-8") as file:
        file.write("name = 'web'\nvif = [ '', ]\n")
    written = as_json("apply", "web.cfg")
    check("apply", written["uuid_written"] and written["nics"] == [{"nic": 0, "mac": mac, "written": True}])
    with open("web.cfg", encoding="utf-8") as file:
        text = file.read()
    check("the file", text == f"name = 'web'\nuuid = \"{written['guest']['uuid']}\"\nvif = [ 'mac={mac}', ]\n")
    check("apply again", twice("apply", "web.cfg") == f"nic 0: {mac}\n")
    with open("copy.cfg", "w", encoding="utf-8") as file:
        file.write(text.replace("'web'", "'copy'"))
    check("a copy", "--keep" in run("apply", "copy.cfg", status=1).stderr)
    run("apply", "--new", "copy.cfg")
    twice("apply", "copy.cfg")
    run("apply", "none.cfg", status=1)

    with open("old.cfg", "w", encoding="utf-8") as file:
        file.write("name = 'old'\nvif = [ 'mac=52:54:00:00:00:09' ]\n")
    with open("fdb", "w", encoding="utf-8") as file:
        file.write("00:16:3e:ff:00:01 dev vif1.0 master xenbr0\n")
    check("scan finds", [clash["fault"] for clash in as_json("scan", "--xl", ".", "--switch-table", "fdb", status=1)["clashes"]] == ["unknown"])
    check("import", as_json("import", "--xl", ".", "--switch-table", "fdb") == {"added": 2, "known": 2, "problems": []})
    check("import again", as_json("import", "--xl", ".", "--switch-table", "fdb") == {"added": 0, "known": 4, "problems": []})
    check("scan finds nothing now", as_json("scan", "--xl", ".", "--switch-table", "fdb")["clashes"] == [])
    check("the switches here", set(as_json("import", "--switch")) == {"added", "known", "problems"})
    check("standard input", run("import", "--switch-table", "-", stdin="x 52:54:00:00:00:0a\n").stdout.startswith("1 addresses added"))
    # Without sources it looks at this machine, whatever that has.
    here = subprocess.run([MACPOOL, "--json", "scan"], capture_output=True, text=True, timeout=60, check=False)
    check("scan of this host", {"seen", "clashes", "problems"} == set(json.loads(here.stdout)))

    check("release", as_json("release", mac)["released"] == [mac])
    check("release again", as_json("release", mac)["released"] == [])
    check("list --resting", mac in twice("list", "--resting"))
    check("release a guest", as_json("release", "--guest", uuid)["released"] == ["52:54:00:00:00:01"])
    check("release a guest again", as_json("release", "--guest", uuid)["released"] == [])
    exported = as_json("export")
    check("export", len(exported["leases"]) == 5 and len(exported["released"]) == 1 and exported["rest_seconds"] == 3600)
    twice("export")

    for wrong in ([], ["nonsense"], ["allocate"], ["allocate", "--guest", "a"], ["allocate", "--guest", "a", "--nic", "-1"], ["allocate", "--guest", "a", "--nic", "x"],
                  ["reserve"], ["reserve", mac, "--guest", "a"], ["release"], ["release", mac, "--guest", "a"], ["release", mac, "--nic", "0"], ["import"],
                  ["apply"], ["apply", "--keep", "--new", "web.cfg"], ["show"], ["list", "--rest"]):
        run(*wrong, status=2)
    for command in ([], ["init"], ["allocate"], ["reserve"], ["release"], ["show"], ["list"], ["import"], ["scan"], ["apply"], ["export"], ["stats"]):
        check(f"help of {command}", "Usage: macpool" in run(*command, "--help").stdout)
    check("version", run("--version").stdout.startswith("macpool "))

print("ok" if failures == 0 else f"{failures} failures")
sys.exit(1 if failures else 0)
