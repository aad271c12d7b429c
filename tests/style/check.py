#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks of the source tree that a compiler does not make. Usage: check.py CHECK SOURCE-DIR BUILD-DIR

layers   includes point one way only, from the tools down to runtime/
sizes    no source file is longer than it may be
spdx     every file of ours begins with the licence line
places   no file names a host on a network or a directory of somebody's machine
headers  every header compiles alone
format   clang-format would change nothing
"""
import concurrent.futures
import json
import os
import re
import shlex
import subprocess
import sys

CEILING = 600  # lines of a file; past that it has two jobs

# What a folder may include, beside itself. The longest prefix of a file's path decides which row is its own.
LAYERS = {
    "runtime": [],
    "hypervisor": ["runtime"],
    "hypervisor/embedded": ["runtime"],
    "disk-images": ["runtime"],
    "mac-pool": ["runtime", "hypervisor"],
    "blkback": ["runtime", "hypervisor", "disk-images"],
    "bridge": ["runtime", "hypervisor"],
    "netback": ["runtime", "hypervisor", "bridge", "mac-pool"],
    "tools": ["runtime", "hypervisor", "hypervisor/embedded", "disk-images", "mac-pool", "blkback", "bridge", "netback"],
}


def sources(root, *suffixes):
    """Files of the tree with one of the suffixes: what git knows, or where there is no git, what is not a build."""
    listed = subprocess.run(["git", "-C", root, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True)
    if listed.returncode == 0:
        names = listed.stdout.splitlines()
    else:
        names = []
        for base, folders, files in os.walk(root):
            folders[:] = [f for f in folders if not f.startswith((".", "build"))]
            names += [os.path.relpath(os.path.join(base, f), root) for f in files]
    return sorted(n for n in names if n.endswith(suffixes) and os.path.isfile(os.path.join(root, n)))


def read(root, name):
    with open(os.path.join(root, name), encoding="utf-8") as file:
        return file.read()


def layer_of(name):
    rows = [row for row in LAYERS if name == row or name.startswith(row + "/")]
    return max(rows, key=len) if rows else None


def layers(root, _build):
    for name in sources(root, ".h", ".cc"):
        own = layer_of(name)
        if own is None:
            continue
        for number, line in enumerate(read(root, name).splitlines(), 1):
            match = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
            if not match:
                continue
            target = match.group(1)
            if not os.path.isfile(os.path.join(root, target)):
                yield f"{name}:{number}: {target} is not a path from the top of the tree"
                continue
            theirs = layer_of(target)
            # Types without code (the states of XenBus, the ring's layout) serve both sides of the seam.
            if theirs != own and theirs not in LAYERS[own]:
                yield f"{name}:{number}: {own} may not include {target}"


def sizes(root, _build):
    for name in sources(root, ".h", ".cc", ".py", ".sh"):
        lines = read(root, name).count("\n")
        if lines > CEILING:
            yield f"{name}: {lines} lines, at most {CEILING}"


def spdx(root, _build):
    for name in sources(root, ".h", ".cc", ".py", ".sh", "meson.build"):
        head = read(root, name).splitlines()[:2]
        if not any("SPDX-License-Identifier: Apache-2.0" in line for line in head):
            yield f"{name}: the licence line is missing"


def places(root, _build):
    host = re.compile(r"\b(?:https?|ftp|git|ssh)://(?!localhost|127\.|\[)[\w-]+(?:\.[\w-]+)+")
    directory = re.compile(r"(?<![\w.}$)-])/(?:home|root|Users|w[o]rk)/\w")
    for name in sources(root, ""):
        if name == "LICENSE":
            continue
        try:
            text = read(root, name)
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            for match in filter(None, [host.search(line), directory.search(line)]):
                yield f"{name}:{number}: {match.group(0)}"


def compiler_options(build):
    """The union of what the build passes to compile anything: a header needs no more than its users have."""
    with open(os.path.join(build, "compile_commands.json"), encoding="utf-8") as file:
        commands = json.load(file)
    compiler, options = None, {}
    for command in commands:
        words = shlex.split(command["command"])
        if not command["file"].endswith(".cc"):
            continue
        if os.path.basename(words[0]) == "ccache":
            words = words[1:]
        compiler = compiler or words[0]
        for word in words[1:]:
            if re.match(r"-I(?!.*\.p$)|-isystem|-std=|-D_|-W", word):
                options[word] = None
            elif word.startswith("-D") and "=" in word:
                options.setdefault(word, None)
    return compiler, list(options)


def headers(root, build):
    compiler, options = compiler_options(build)

    def compile_alone(name):
        with_once = ["-Wno-pragma-once-outside-header", "-x", "c++", "-fsyntax-only", "-I", root]
        done = subprocess.run(
            [compiler, *options, *with_once, "-include", os.path.join(root, name), "/dev/null"],
            cwd=build, capture_output=True, text=True)
        return None if done.returncode == 0 else f"{name}: does not compile alone:\n{done.stderr[:1500]}"

    names = [n for n in sources(root, ".h") if layer_of(n)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from filter(None, pool.map(compile_alone, names))


def clang_format(root, _build):
    for name in sources(root, ".h", ".cc"):
        done = subprocess.run(["clang-format", "--dry-run", "-Werror", name], cwd=root, capture_output=True, text=True)
        if done.returncode != 0:
            yield f"{name}: clang-format -i {name}"


CHECKS = {"layers": layers, "sizes": sizes, "spdx": spdx, "places": places, "headers": headers, "format": clang_format}


def main():
    if len(sys.argv) != 4 or sys.argv[1] not in CHECKS:
        sys.exit(__doc__)
    problems = list(CHECKS[sys.argv[1]](sys.argv[2], sys.argv[3]))
    for problem in problems:
        print(problem)
    sys.exit(1 if problems else 0)


main()
