#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A target's corpus as one file. Usage: pack.py pack DIR FILE [BYTES] | unpack FILE DIR

The file is "RBFZ1", a newline, and for each input its length (32 bits, little-endian) and its bytes; the shortest inputs first,
at most BYTES in all."""
import hashlib
import os
import struct
import sys

MAGIC = b"RBFZ1\n"


def pack(directory, path, most=1 << 20):
    inputs = []
    for name in os.listdir(directory):
        with open(os.path.join(directory, name), "rb") as file:
            inputs.append(file.read())
    inputs.sort(key=lambda data: (len(data), data))
    size, kept = len(MAGIC), 0
    with open(path, "wb") as out:
        out.write(MAGIC)
        for data in inputs:
            size += 4 + len(data)
            if size > most:
                break
            out.write(struct.pack("<I", len(data)) + data)
            kept += 1
    print(f"{path}: {kept} of {len(inputs)} inputs, {os.path.getsize(path)} bytes")


def unpack(path, directory):
    with open(path, "rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            sys.exit(f"{path} is no corpus")
        while head := file.read(4):
            data = file.read(struct.unpack("<I", head)[0])
            with open(os.path.join(directory, hashlib.sha1(data).hexdigest()), "wb") as out:
                out.write(data)


if len(sys.argv) in (4, 5) and sys.argv[1] == "pack":
    pack(sys.argv[2], sys.argv[3], *map(int, sys.argv[4:]))
elif len(sys.argv) == 4 and sys.argv[1] == "unpack":
    unpack(sys.argv[2], sys.argv[3])
else:
    sys.exit(__doc__)
