#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""vdisk as its users run it: the built program, real files, QEMU's tools as the other opinion.
Usage: vdisk_test.py VDISK [NAME...]"""
import json
import os
import pty
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
import zlib

VDISK = os.path.abspath(sys.argv.pop(1))
MIB = 1 << 20
CREATED = {"raw": ("raw", []), "vhd": ("vhd", []), "vhd-fixed": ("vhd", ["-o", "subformat=fixed"]), "qcow2": ("qcow2", []),
           "qcow2-small": ("qcow2", ["-o", "cluster_size=4k,extended_l2=off,refcount_bits=64"])}
QEMU = {"raw": "raw", "vhd": "vpc", "qcow2": "qcow2"}


def sparse_content(seed, size):
    """Data, zeros written out, and holes, at odd places."""
    rng = random.Random(seed)
    pieces = []
    for _ in range(12):
        length = rng.randrange(1, 600) * 512
        offset = rng.randrange(0, (size - length) // 512) * 512
        pieces.append((offset, rng.randbytes(length) if rng.random() < 0.8 else bytes(length)))
    return pieces


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="vdisk-test-")
        self.addCleanup(shutil.rmtree, self.dir, True)

    def path(self, name):
        return os.path.join(self.dir, name)

    def vdisk(self, *args, status=0):
        done = subprocess.run([VDISK, *args], cwd=self.dir, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, status, f"vdisk {args}: {done.stdout}{done.stderr}")
        return done.stdout

    def refused(self, *args, says, status=1):
        done = subprocess.run([VDISK, *args], cwd=self.dir, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, status, f"vdisk {args}: {done.stdout}{done.stderr}")
        self.assertEqual(done.stdout, "")
        self.assertRegex(done.stderr, says)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        return done.stderr

    def qemu(self, *args, status=0):
        done = subprocess.run(args, cwd=self.dir, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, status, f"{args}: {done.stdout}{done.stderr}")
        return done.stdout

    def raw(self, name, size, seed=1):
        with open(self.path(name), "wb") as file:
            file.truncate(size)
            for offset, data in sparse_content(seed, size):
                file.seek(offset)
                file.write(data)
        return self.path(name)

    def bytes_of(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()


class Convert(Case):
    def test_every_format_to_every_format_agrees_with_qemu(self):
        size = 37 * MIB + 512
        self.raw("source.raw", size)
        for first, (kind, options) in CREATED.items():
            one = f"one-{first}.{kind}"
            self.vdisk("convert", "source.raw", one, "-f", "raw", "-O", kind, *options)
            self.qemu("qemu-img", "compare", "-f", "raw", "-F", QEMU[kind], "source.raw", one)
            self.assertIn(f'"virtual-size": {size}', self.qemu("qemu-img", "info", "--output=json", "-f", QEMU[kind], one))
            self.vdisk("compare", "source.raw", one, "--strict")
            self.assertEqual(json.loads(self.vdisk("info", "--json", one))["virtual-size"], size)
            for second, (into, more) in CREATED.items():
                two = f"two-{second}.{into}"
                self.vdisk("convert", one, two, "--force", *more)
                self.qemu("qemu-img", "compare", "-f", "raw", "-F", QEMU[into], "source.raw", two)
                self.vdisk("check", two)
                if into == "qcow2":
                    self.qemu("qemu-img", "check", "-f", "qcow2", two)

    def test_what_qemu_made(self):
        self.raw("source.raw", 16 * MIB)
        for options in ("subformat=dynamic", "subformat=fixed", "subformat=dynamic,force_size=on"):
            self.qemu("qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", options, "source.raw", "theirs.vhd")
            self.vdisk("convert", "theirs.vhd", "back.raw", "--force")
            self.assertEqual(self.bytes_of("back.raw")[:16 * MIB], self.bytes_of("source.raw"))
            self.vdisk("compare", "theirs.vhd", "source.raw")

    def test_holes_stay_holes_and_zeros_become_holes(self):
        with open(self.path("source.raw"), "wb") as file:
            file.write(bytes(8 * MIB))
            file.write(os.urandom(MIB))
            file.truncate(1 << 40)
        counts = json.loads(self.vdisk("convert", "--json", "source.raw", "target.raw"))
        self.assertLessEqual(counts["bytes-read"], 9 * MIB)
        self.assertEqual(counts["bytes-written"], MIB)
        self.assertLess(os.stat(self.path("target.raw")).st_blocks * 512, 2 * MIB)
        counts = json.loads(self.vdisk("convert", "--json", "source.raw", "target.vhd"))
        self.assertEqual(counts["bytes-written"], MIB)
        self.vdisk("compare", "source.raw", "target.vhd", "--strict")

    def test_a_hole_of_a_tebibyte_reads_nothing(self):
        with open(self.path("hole.raw"), "wb") as file:
            file.truncate(1 << 40)
        for target in ("t.raw", "t.vhd", "t.qcow2"):
            self.assertEqual(json.loads(self.vdisk("convert", "--json", "hole.raw", target))["bytes-read"], 0)

    def test_into_an_existing_image_its_old_content_goes(self):
        self.raw("source.raw", 12 * MIB, seed=2)
        for target in ("old.raw", "old.vhd"):
            self.vdisk("create", target, "16M")
            self.raw("other.raw", 16 * MIB, seed=3)
            self.vdisk("convert", "-n", "other.raw", target)
            self.vdisk("convert", "-n", "source.raw", target)
            self.vdisk("dd", target, "head.raw", "--bs", "1M", "--count", "12")
            self.assertEqual(self.bytes_of("head.raw"), self.bytes_of("source.raw"))
            os.unlink(self.path("head.raw"))
        self.vdisk("create", "small.raw", "1M")
        self.refused("convert", "-n", "source.raw", "small.raw", says="1048576 bytes, 12582912 are needed")

    def test_nothing_is_written_over_without_a_word(self):
        self.raw("source.raw", MIB)
        before = self.bytes_of("source.raw")
        self.raw("there.raw", MIB, seed=9)
        there = self.bytes_of("there.raw")
        self.refused("convert", "source.raw", "there.raw", says="not empty")
        self.refused("create", "there.raw", "1M", says="not empty")
        self.refused("convert", "source.raw", "source.raw", "--force", says="same file")
        self.assertEqual(self.bytes_of("there.raw"), there)
        self.assertEqual(self.bytes_of("source.raw"), before)

    @unittest.skipIf(os.environ.get("SANITIZED") == "true", "a sanitizer's own memory is no part of the promise")
    def test_memory_is_flat(self):
        peaks = []
        for megabytes in (64, 512):
            with open(self.path("big.raw"), "wb") as file:
                for _ in range(megabytes // 16):
                    file.write(os.urandom(MIB) * 16)
            process = subprocess.Popen([VDISK, "convert", "-q", "big.raw", f"{megabytes}.vhd"], cwd=self.dir)
            peak = 0
            # Not ru_maxrss: that of a child begins with its parent's.
            while process.poll() is None:
                with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
                    found = [int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM")]
                peak = max([peak, *found])
            self.assertEqual(process.returncode, 0)
            peaks.append(peak)
        self.assertGreater(peaks[0], 8)
        self.assertLess(peaks[1], 64)
        self.assertLess(peaks[1] - peaks[0], 4)

    def test_a_full_file_system_leaves_no_half_image(self):
        small = self.path("small")
        os.mkdir(small)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", small], capture_output=True).returncode != 0:
            self.skipTest("mounting needs root")
        self.addCleanup(subprocess.run, ["umount", small])
        with open(self.path("source.raw"), "wb") as file:
            file.write(os.urandom(16 * MIB))
        for target in ("small/t.raw", "small/t.vhd"):
            self.refused("convert", "source.raw", target, says="No space left")
            self.assertFalse(os.path.exists(self.path(target)))

    def test_a_bar_on_a_terminal_and_only_there(self):
        self.raw("source.raw", 4 * MIB)
        done = subprocess.run([VDISK, "convert", "source.raw", "a.raw"], cwd=self.dir, capture_output=True)
        self.assertEqual(done.stderr, b"")
        master, slave = pty.openpty()
        subprocess.run([VDISK, "convert", "source.raw", "a.vhd"], cwd=self.dir, stdout=subprocess.DEVNULL, stderr=slave, check=True)
        os.close(slave)
        self.assertIn(b"\r\x1b[K", os.read(master, 4096))
        os.close(master)


class Names(Case):
    def test_the_format_comes_from_the_name_and_has_to_agree(self):
        self.vdisk("create", "a.vhd", "10M")
        shutil.copy(self.path("a.vhd"), self.path("a"))
        shutil.copy(self.path("a.vhd"), self.path("a.raw"))
        self.refused("info", "a", says="tells no format; it begins like vhd")
        self.refused("info", "a.raw", says="named like raw and looks like vhd")
        self.assertEqual(json.loads(self.vdisk("info", "--json", "vhd:a"))["format"], "vhd")
        self.assertEqual(json.loads(self.vdisk("info", "--json", "a", "--format", "vpc"))["format"], "vhd")
        size = os.path.getsize(self.path("a.raw"))
        self.assertEqual(json.loads(self.vdisk("info", "--json", "raw:a.raw"))["virtual-size"], size)

    def test_what_is_not_supported_is_refused_by_its_name_with_a_way_out(self):
        for name, kind in (("x.vmdk", "vmdk"), ("x.vhdx", "vhdx"), ("x.vdi", "vdi"), ("x.qed", "qed")):
            self.qemu("qemu-img", "create", "-f", kind, name, "1M")
            self.refused("info", name, says=f"{kind} images are not supported.*qemu-img convert -f {kind} -O qcow2")
            shutil.copy(self.path(name), self.path("nameless"))
            self.refused("convert", "nameless", "y.raw", says=f"{kind} images are not supported")
            self.refused("info", "nameless", "--format", kind, says="not supported")
        with open(self.path("luks"), "wb") as file:
            file.write(b"LUKS\xba\xbe\0\1" + bytes(4096))
        self.refused("info", "luks", says="LUKS")
        self.refused("create", "new.vmdk", "1M", says="not supported")

    def test_what_is_no_image(self):
        self.refused("info", "missing.raw", says="No such file")
        os.mkdir(self.path("d.raw"))
        self.refused("info", "d.raw", says="directory")
        os.mkfifo(self.path("f.raw"))
        self.refused("info", "raw:f.raw", says="regular file or a block device")
        open(self.path("empty.raw"), "wb").close()
        self.refused("map", "empty.raw", says="is empty")
        with open(self.path("zero.vhd"), "wb") as file:
            file.truncate(65536)
        self.refused("map", "zero.vhd", says="no VHD")

    def test_usage(self):
        for args in ([], ["frobnicate"], ["info"], ["info", "a", "--no-such"], ["create"]):
            self.assertEqual(subprocess.run([VDISK, *args], capture_output=True).returncode, 2)
        self.assertEqual(subprocess.run([VDISK, "--version"], capture_output=True).returncode, 0)
        self.refused("create", "a.raw", "many", says="no size")
        self.refused("create", "a.raw", says="a size is needed")
        self.refused("create", "a.vhd", "1M", "-o", "colour=red", says="no such option")
        self.refused("create", "a.vhd", "3T", says="2040 GiB")
        self.assertEqual(os.listdir(self.dir), [])


class InUse(Case):
    def test_every_command_refuses_an_image_that_is_open_for_writing(self):
        self.vdisk("create", "a.vhd", "10M")
        self.vdisk("create", "child.vhd", "-b", "a.vhd")
        self.raw("b.raw", 10 * MIB)
        process = subprocess.Popen(["qemu-io", "-f", "vpc", self.path("a.vhd")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True)
        try:
            process.stdin.write("write 0 512\n")
            process.stdin.flush()
            self.assertIn("wrote", process.stdout.readline())
            before = self.bytes_of("a.vhd")
            for args in (["info", "a.vhd"], ["check", "a.vhd"], ["check", "--repair", "a.vhd"], ["map", "a.vhd"],
                         ["convert", "a.vhd", "c.raw"], ["convert", "-n", "b.raw", "a.vhd"], ["compare", "a.vhd", "b.raw"],
                         ["compare", "b.raw", "a.vhd"], ["resize", "a.vhd", "20M"], ["dd", "a.vhd", "c.raw"], ["dd", "b.raw", "a.vhd"],
                         ["measure", "a.vhd"], ["partitions", "a.vhd"], ["create", "--force", "a.vhd", "1M"], ["map", "child.vhd"],
                         ["commit", "child.vhd"]):
                self.refused(*args, says="in use by another program")
            self.assertEqual(self.bytes_of("a.vhd"), before)
            self.assertFalse(os.path.exists(self.path("c.raw")))
        finally:
            process.stdin.close()
            process.stdout.close()
            process.wait(30)
        self.vdisk("info", "a.vhd")


class Commands(Case):
    def test_compare(self):
        self.raw("a.raw", 8 * MIB)
        shutil.copy(self.path("a.raw"), self.path("b.raw"))
        self.vdisk("compare", "a.raw", "b.raw", "--strict")
        with open(self.path("b.raw"), "r+b") as file:
            file.truncate(9 * MIB)
        self.assertIn("is longer, by zeros", self.vdisk("compare", "a.raw", "b.raw"))
        self.vdisk("compare", "a.raw", "b.raw", "--strict", status=3)
        with open(self.path("b.raw"), "r+b") as file:
            file.seek(8 * MIB + 777)
            file.write(b"x")
        self.assertEqual(json.loads(self.vdisk("compare", "--json", "a.raw", "b.raw", status=3))["first-difference"], 8 * MIB + 777)
        with open(self.path("b.raw"), "r+b") as file:
            file.seek(12345)
            byte = file.read(1)
            file.seek(12345)
            file.write(bytes([byte[0] ^ 1]))
        self.assertIn("differ at 12345", self.vdisk("compare", "a.raw", "b.raw", status=3))

    def test_map_covers_the_disk_once(self):
        self.raw("a.raw", 20 * MIB)
        self.vdisk("convert", "a.raw", "a.vhd")
        for name in ("a.raw", "a.vhd"):
            at = 0
            content = self.bytes_of("a.raw")
            for extent in json.loads(self.vdisk("map", "--json", name)):
                self.assertEqual(extent["start"], at)
                at += extent["length"]
                mine = content[extent["start"]:at]
                if extent["zero"]:
                    self.assertEqual(mine.count(0), len(mine))
                if "offset" in extent:
                    self.assertEqual(self.bytes_of(name)[extent["offset"]:extent["offset"] + extent["length"]], mine)
            self.assertEqual(at, 20 * MIB)

    def test_resize(self):
        self.raw("a.raw", 8 * MIB)
        self.vdisk("convert", "a.raw", "a.vhd")
        for name in ("a.raw", "a.vhd"):
            self.vdisk("resize", name, "+1G")
            self.refused("resize", name, "8M", says="--shrink")
            self.assertEqual(json.loads(self.vdisk("info", "--json", name))["virtual-size"], 8 * MIB + (1 << 30))
            self.vdisk("resize", name, "8M", "--shrink")
            self.vdisk("check", name)
        self.vdisk("compare", "a.raw", "a.vhd", "--strict")

    def test_dd(self):
        self.raw("a.raw", 8 * MIB)
        content = self.bytes_of("a.raw")
        self.vdisk("convert", "a.raw", "a.vhd")
        self.vdisk("dd", "a.vhd", "part.raw", "--bs", "512", "--skip", "5", "--count", "3000")
        self.assertEqual(self.bytes_of("part.raw"), content[5 * 512:3005 * 512])
        self.vdisk("dd", "part.raw", "a.vhd", "--bs", "512", "--seek", "100")
        self.vdisk("convert", "a.vhd", "b.raw")
        expected = bytearray(content)
        expected[100 * 512:3100 * 512] = content[5 * 512:3005 * 512]
        self.assertEqual(self.bytes_of("b.raw"), bytes(expected))
        self.refused("dd", "a.raw", "part.raw", says="are needed")

    def test_measure_is_what_a_conversion_takes(self):
        self.raw("a.raw", 200 * MIB)
        needed = json.loads(self.vdisk("measure", "--json", "a.raw", "-O", "vhd"))
        self.vdisk("convert", "a.raw", "a.vhd")
        size = os.path.getsize(self.path("a.vhd"))
        self.assertLessEqual(size, needed["required"])
        for size in (MIB, 77 * MIB + 512, 1 << 30, 1 << 40, 7 << 40):
            ours = json.loads(self.vdisk("measure", "--json", "--size", str(size)))
            theirs = json.loads(self.qemu("qemu-img", "measure", "-O", "qcow2", "--size", str(size), "--output=json"))
            self.assertEqual(ours["fully-allocated"], theirs["fully-allocated"])
            self.assertEqual(ours["required"], theirs["required"])

    def test_children_and_commit(self):
        self.raw("a.raw", 16 * MIB)
        self.vdisk("convert", "a.raw", "base.vhd")
        os.mkdir(self.path("sub"))
        self.vdisk("create", "sub/child.vhd", "-b", "../base.vhd")
        self.vdisk("compare", "a.raw", "sub/child.vhd", "--strict")
        self.raw("new.raw", 16 * MIB, seed=5)
        self.vdisk("dd", "new.raw", "sub/child.vhd", "--bs", "512", "--skip", "3", "--seek", "3", "--count", "20000")
        expected = bytearray(self.bytes_of("a.raw"))
        expected[3 * 512:20003 * 512] = self.bytes_of("new.raw")[3 * 512:20003 * 512]
        with open(self.path("expected.raw"), "wb") as file:
            file.write(expected)
        self.vdisk("compare", "expected.raw", "sub/child.vhd")
        self.vdisk("compare", "a.raw", "base.vhd")
        chain = json.loads(self.vdisk("info", "--json", "--chain", "sub/child.vhd"))
        self.assertEqual([one["format-specific"]["subformat"] for one in chain], ["differencing", "dynamic"])
        self.vdisk("commit", "sub/child.vhd")
        self.vdisk("compare", "expected.raw", "base.vhd", "--strict")
        self.qemu("qemu-img", "compare", "-f", "raw", "-F", "vpc", "expected.raw", "base.vhd")
        self.refused("commit", "base.vhd", says="continues no other image")
        os.rename(self.path("base.vhd"), self.path("gone.vhd"))
        self.refused("map", "sub/child.vhd", says="base.vhd: No such file")

    def test_qcow2_children_and_damage(self):
        self.raw("a.raw", 16 * MIB)
        self.vdisk("convert", "a.raw", "base.qcow2")
        self.vdisk("create", "child.qcow2", "-b", "base.qcow2")
        self.vdisk("compare", "a.raw", "child.qcow2", "--strict")
        self.qemu("qemu-img", "compare", "-f", "raw", "-F", "qcow2", "a.raw", "child.qcow2")
        chain = json.loads(self.vdisk("info", "--json", "--chain", "child.qcow2"))
        self.assertEqual([os.path.basename(one["filename"]) for one in chain], ["child.qcow2", "base.qcow2"])
        self.vdisk("resize", "base.qcow2", "+1G")
        self.qemu("qemu-img", "check", "-f", "qcow2", "base.qcow2")
        self.qemu("qemu-img", "create", "-q", "-f", "qcow2", "leaky.qcow2", "16M")
        self.qemu("qemu-io", "-f", "qcow2", "-c", "write 0 4M", "leaky.qcow2")
        with open(self.path("leaky.qcow2"), "r+b") as file:
            file.seek(40)
            level1 = struct.unpack(">Q", file.read(8))[0]
            file.seek(level1)
            level2 = struct.unpack(">Q", file.read(8))[0] & 0x00FFFFFFFFFFFE00
            file.seek(level2)
            file.write(bytes(8))
        self.assertEqual(json.loads(self.vdisk("check", "--json", "leaky.qcow2", status=4))["leaks"], 1)
        self.vdisk("check", "--repair", "leaky.qcow2")
        self.qemu("qemu-img", "check", "-f", "qcow2", "leaky.qcow2")

    def test_check_and_repair(self):
        self.raw("a.raw", 16 * MIB)
        self.vdisk("convert", "a.raw", "a.vhd")
        self.vdisk("check", "a.vhd")
        with open(self.path("a.vhd"), "r+b") as file:
            file.seek(512 + 16)
            table = struct.unpack(">Q", file.read(8))[0]
            file.seek(table)
            entries = bytearray(file.read(4 * 8))
            used = [i for i in range(8) if entries[4 * i:4 * i + 4] != b"\xff" * 4]
            entries[4 * used[1]:4 * used[1] + 4] = entries[4 * used[0]:4 * used[0] + 4]
            file.seek(table)
            file.write(entries)
        self.assertIn("overlap", self.vdisk("check", "a.vhd", status=3))
        self.refused("map", "a.vhd", says="overlap")
        self.assertTrue(json.loads(self.vdisk("check", "--json", "--repair", "a.vhd", status=4))["repaired"])
        self.vdisk("check", "a.vhd", status=4)
        self.vdisk("map", "a.vhd")


class Past(Case):
    """Snapshots, bitmaps and backing files of qcow2 images, in turns by vdisk and by QEMU."""

    def sound(self, image):
        self.qemu("qemu-img", "check", "-q", "-f", "qcow2", image)
        self.vdisk("check", image, "-q")

    def holds(self, image, content, *source):
        """What the disk (or with source, a snapshot) reads as."""
        out = self.path("out.raw")
        self.qemu("qemu-img", "convert", "-f", "qcow2", "-O", "raw", *source, image, out)
        with open(out, "rb") as file:
            self.assertTrue(file.read() == content, f"{image} {source}")

    def write(self, image, content, rng):
        for _ in range(4):
            length = rng.randrange(1, 100) * 512
            at = rng.randrange(0, (len(content) - length) // 512) * 512
            byte = rng.randrange(256)
            self.qemu("qemu-io", "-f", "qcow2", "-c", f"write -P {byte} {at} {length}", image)
            content[at:at + length] = bytes([byte]) * length

    def test_snapshots_in_turns(self):
        kinds = [["-o", "cluster_size=4k"], ["-o", "extended_l2=on,cluster_size=16k"], ["-o", "compat=0.10"], ["-o", "refcount_bits=64"]]
        for number, options in enumerate(kinds):
            with self.subTest(options):
                rng = random.Random(number)
                image, size = f"s{number}.qcow2", MIB
                self.qemu("qemu-img", "create", "-q", "-f", "qcow2", *options, image, str(size))
                now, kept = bytearray(size), {}
                for step in range(14):
                    self.write(image, now, rng)
                    ours = step % 2 == 0
                    action = rng.choice(["create", "create", "apply", "delete"]) if kept else "create"
                    name = f"n{step}" if action == "create" else rng.choice(sorted(kept))
                    if ours:
                        self.vdisk("snapshot", action, image, name, "-q")
                    else:
                        self.qemu("qemu-img", "snapshot", {"create": "-c", "apply": "-a", "delete": "-d"}[action], name, image)
                    if action == "create":
                        kept[name] = bytes(now)
                    elif action == "apply":
                        now = bytearray(kept[name])
                    else:
                        del kept[name]
                    self.sound(image)
                    self.holds(image, now)
                for name, content in kept.items():
                    self.holds(image, content, "-l", f"snapshot.name={name}")
                listed = json.loads(self.vdisk("snapshot", "list", image, "--json"))
                self.assertEqual({one["name"] for one in listed}, set(kept))

    def test_a_snapshot_keeps_the_size_and_its_end_frees_space(self):
        self.vdisk("create", "a.qcow2", "8M", "-q")
        self.qemu("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 4M", "a.qcow2")
        self.vdisk("snapshot", "create", "a.qcow2", "small", "-q")
        self.vdisk("resize", "a.qcow2", "16M", "-q")
        self.qemu("qemu-io", "-f", "qcow2", "-c", "write -P 2 0 16M", "a.qcow2")
        self.vdisk("snapshot", "apply", "a.qcow2", "1", "-q")
        self.assertEqual(json.loads(self.vdisk("info", "a.qcow2", "--json"))["virtual-size"], 8 * MIB)
        self.sound("a.qcow2")
        self.assertLess(os.stat(self.path("a.qcow2")).st_blocks * 512, 6 * MIB)
        self.assertIn("small", self.vdisk("snapshot", "list", "a.qcow2"))
        self.refused("snapshot", "apply", "a.qcow2", "none", says='no snapshot "none"')
        self.refused("snapshot", "create", "a.qcow2", "small", says="already")
        self.vdisk("create", "r.raw", "1M", "-q")
        self.refused("snapshot", "create", "r.raw", "x", says="only qcow2")

    def test_bitmaps_in_turns(self):
        self.vdisk("create", "b.qcow2", "64M", "-q")
        self.qemu("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 1M", "b.qcow2")
        self.vdisk("bitmap", "add", "b.qcow2", "ours", "-g", "32k", "-q")
        self.sound("b.qcow2")
        self.qemu("qemu-img", "bitmap", "--add", "b.qcow2", "theirs")
        self.qemu("qemu-io", "-f", "qcow2", "-c", "write -P 2 1M 1M", "b.qcow2")
        self.sound("b.qcow2")
        about = json.loads(self.qemu("qemu-img", "info", "--output=json", "b.qcow2"))["format-specific"]["data"]["bitmaps"]
        self.assertEqual([(one["name"], one["granularity"], one["flags"]) for one in about],
                         [("ours", 32768, ["auto"]), ("theirs", 65536, ["auto"])])
        self.vdisk("snapshot", "create", "b.qcow2", "s", "-q")
        self.sound("b.qcow2")
        self.vdisk("bitmap", "remove", "b.qcow2", "theirs", "-q")
        self.sound("b.qcow2")
        listed = json.loads(self.vdisk("bitmap", "list", "b.qcow2", "--json"))
        self.assertEqual([(one["name"], one["recording"], one["in-use"]) for one in listed], [("ours", True, False)])
        self.vdisk("snapshot", "apply", "b.qcow2", "s", "-q")
        self.assertIn("not to be trusted", self.vdisk("bitmap", "list", "b.qcow2"))
        self.refused("bitmap", "remove", "b.qcow2", "theirs", says='no bitmap "theirs"')
        self.refused("bitmap", "add", "b.qcow2", "x", "-g", "3000", says="power of two")
        self.vdisk("bitmap", "remove", "b.qcow2", "ours", "-q")
        self.sound("b.qcow2")

    def test_rebase(self):
        rng = random.Random(5)
        contents = {}
        for name, size in (("one", 4 * MIB), ("two", 3 * MIB), ("top", 4 * MIB)):
            options = ["-b", "one.qcow2", "-F", "qcow2"] if name == "top" else []
            self.qemu("qemu-img", "create", "-q", "-f", "qcow2", *options, f"{name}.qcow2", str(size))
            contents[name] = bytearray(contents["one"]) if name == "top" else bytearray(size)
            for _ in range(6):
                self.write(f"{name}.qcow2", contents[name], rng)
        below = {name: open(self.path(f"{name}.qcow2"), "rb").read() for name in ("one", "two")}
        for backing in ("two.qcow2", "one.qcow2", ""):
            self.vdisk("rebase", "top.qcow2", "-b", backing, "-q")
            self.sound("top.qcow2")
            self.holds("top.qcow2", contents["top"])
            about = json.loads(self.qemu("qemu-img", "info", "--output=json", "top.qcow2"))
            self.assertEqual(about.get("backing-filename", ""), backing)
        self.vdisk("rebase", "-u", "top.qcow2", "-b", "elsewhere/none.raw", "-q")
        about = json.loads(self.qemu("qemu-img", "info", "--output=json", "top.qcow2"))
        self.assertEqual((about["backing-filename"], about["backing-filename-format"]), ("elsewhere/none.raw", "raw"))
        self.refused("rebase", "top.qcow2", "-b", "one.qcow2", says="none.raw")
        self.refused("rebase", "one.qcow2", "-b", "one.qcow2", says="in use")
        self.refused("rebase", "one.qcow2", "-b", "missing.qcow2", says="missing.qcow2")
        self.assertEqual(below, {name: open(self.path(f"{name}.qcow2"), "rb").read() for name in below})


class Partitions(Case):
    def test_gpt_mbr_and_lvm(self):
        self.vdisk("create", "gpt.raw", "64M")
        subprocess.run(["sfdisk", "-q", self.path("gpt.raw")], check=True, text=True, capture_output=True, input=
                       "label: gpt\nstart=2048, size=20480, name=\"root ü\"\nstart=24576, size=8192, type=E6D6D379-F507-44C2-A23C-238F2A3DF928\n")
        table = json.loads(self.vdisk("partitions", "--json", "gpt.raw"))
        self.assertEqual(table["table"], "gpt")
        self.assertEqual([(p["number"], p["start"], p["size"], p["name"]) for p in table["partitions"]],
                         [(1, MIB, 10 * MIB, "root ü"), (2, 12 * MIB, 4 * MIB, "")])
        self.assertEqual(table["warnings"], [])
        self.vdisk("convert", "gpt.raw", "gpt.vhd")
        self.assertEqual(json.loads(self.vdisk("partitions", "--json", "gpt.vhd")), table)
        with open(self.path("gpt.raw"), "r+b") as file:
            file.seek(512)
            file.write(bytes(512))
        damaged = json.loads(self.vdisk("partitions", "--json", "gpt.raw"))
        self.assertEqual(damaged["partitions"], table["partitions"])
        self.assertRegex(damaged["warnings"][0], "damaged; this is its copy")

        self.vdisk("create", "mbr.raw", "64M")
        subprocess.run(["sfdisk", "-q", self.path("mbr.raw")], check=True, text=True, capture_output=True, input=
                       "label: dos\nstart=2048, size=2048, type=83, bootable\nstart=8192, size=65536, type=5\n"
                       "start=10240, size=2048, type=83\nstart=20480, size=4096, type=8e\n")
        table = json.loads(self.vdisk("partitions", "--json", "mbr.raw"))
        self.assertEqual([(p["number"], p["start"] // 512, p["size"] // 512, p["type"]) for p in table["partitions"]],
                         [(1, 2048, 2048, "0x83"), (2, 8192, 65536, "0x05"), (5, 10240, 2048, "0x83"), (6, 20480, 4096, "0x8e")])
        self.assertTrue(table["partitions"][0]["bootable"])

    def test_a_physical_volume(self):
        # As `pvcreate` and `vgcreate` leave it: a label, two areas, and the group's text.
        disk = bytearray(4 * MIB)
        label = bytearray(512)
        label[0:8] = b"LABELONE"
        label[8:16] = struct.pack("<Q", 1)
        label[20:24] = struct.pack("<I", 32)
        label[24:32] = b"LVM2 001"
        label[72:136] = struct.pack("<QQQQQQQQ", MIB, 0, 0, 0, 4096, MIB - 4096, 0, 0)
        disk[512:1024] = label
        disk[4096 + 4:4096 + 20] = b" LVM2 x[5A%r0N*>"
        disk[4096 + 40:4096 + 56] = struct.pack("<QQ", 512, 40)
        disk[4096 + 512:4096 + 530] = b"vg_data {\nid = \"x\""
        with open(self.path("pv.raw"), "wb") as file:
            file.write(disk)
        self.assertEqual(json.loads(self.vdisk("partitions", "--json", "pv.raw"))["content"], "LVM physical volume of group vg_data")

    def test_hostile_tables(self):
        rng = random.Random(7)
        for _ in range(60):
            disk = bytearray(256 * 1024)
            disk[510:512] = b"\x55\xaa"
            for i in range(4):
                disk[446 + 16 * i:462 + 16 * i] = struct.pack("<B3xB3xII", 0x80, rng.choice([5, 0x83, 0xee]), rng.choice([0, 1, 63, 2 ** 32 - 1]),
                                                              rng.choice([0, 1, 2 ** 32 - 1]))
            disk[512:1024] = rng.randbytes(512)
            header = bytearray(b"EFI PART" + rng.randbytes(84))
            header[12:16] = struct.pack("<I", 92)
            header[72:88] = struct.pack("<QII", rng.choice([0, 2, 2 ** 63, 2 ** 64 - 1]), rng.choice([0, 128, 2 ** 32 - 1]),
                                        rng.choice([0, 1, 128, 2 ** 32 - 1]))
            header[16:20] = bytes(4)
            header[16:20] = struct.pack("<I", zlib.crc32(header))
            if rng.random() < 0.7:
                disk[512:512 + 92] = header
            # A boot record that is its own next.
            disk[63 * 512:64 * 512] = disk[0:512]
            with open(self.path("h.raw"), "wb") as file:
                file.write(disk)
            self.vdisk("partitions", "--json", "h.raw")


if __name__ == "__main__":
    result = unittest.main(exit=False, verbosity=1).result
    bad = len(result.failures) + len(result.errors)
    if bad == 0:
        print(f"All tests passed (in {result.testsRun} test cases)")
    else:
        print(f"test cases: {result.testsRun} | {result.testsRun - bad} passed | {bad} failed")
    sys.exit(1 if bad else 0)
