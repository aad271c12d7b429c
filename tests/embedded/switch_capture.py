#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Whole TCP/IP stacks on the built-in switch, and every frame that reaches one of them captured and judged by scapy, which shares no code
with us or with the stacks: lengths, checksums of IPv4, TCP, UDP, ICMP and ICMPv6, in fragments too; what is left blank is blank as the
vnet header says. Segments to be cut reach who takes them whole, and who does not cut.
Usage: switch_capture.py SOURCE-DIRECTORY BUILD-DIRECTORY        (needs scapy of Debian, so it runs with Debian's python)"""
import ctypes
import logging
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

SKIPPED = 77
SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING, ETH_P_ALL = 263, 15, 23, 3
SO_RCVBUFFORCE = 33
NEEDS_CSUM = 1
MOST = 1514  # bytes of a frame that is not to be cut
BYTES = "600K"  # of each stream


def capture(path):
    """In a guest's namespace: what comes in, each frame with its vnet header, until SIGTERM."""
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    raw.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
    raw.bind(("eth0", ETH_P_ALL))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with open(path, "wb", buffering=0) as file:
        print("ready", flush=True)
        while True:
            frame = raw.recv(1 << 17)
            file.write(struct.pack("=I", len(frame)) + frame)


def frames(path):
    with open(path, "rb") as file:
        data = file.read()
    at = 0
    while at + 4 <= len(data):
        size = struct.unpack_from("=I", data, at)[0]
        header = struct.unpack_from("=BBHHHH", data, at + 4)
        yield header, data[at + 14:at + 4 + size]
        at += 4 + size


class Judge:
    """Of what one guest was given."""

    def __init__(self, name):
        logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
        from scapy.all import ICMP, IP, TCP, UDP, Ether, IPv6, IPv6ExtHdrFragment, defragment, defragment6  # noqa: PLC0415
        from scapy.layers.inet import in4_chksum
        from scapy.layers.inet6 import in6_chksum
        from scapy.utils import checksum
        self.of = dict(ICMP=ICMP, IP=IP, TCP=TCP, UDP=UDP, Ether=Ether, IPv6=IPv6, Fragment=IPv6ExtHdrFragment)
        self.checksum, self.in4, self.in6, self.defragment, self.defragment6 = checksum, in4_chksum, in6_chksum, defragment, defragment6
        self.name, self.faults, self.seen, self.whole, self.blank, self.fragments = name, [], {}, 0, 0, {4: [], 6: []}

    def fault(self, what, frame):
        if len(self.faults) < 10:
            self.faults.append(f"{self.name}: {what}: {frame[:80].hex()}... ({len(frame)} bytes)")

    def count(self, what):
        self.seen[what] = self.seen.get(what, 0) + 1

    def frame(self, header, frame):
        flags, gso_type, _, gso_size, start, offset = header
        ether = self.of["Ether"](frame)
        if gso_type:
            self.whole += len(frame) > MOST
            if not flags & NEEDS_CSUM or not 500 < gso_size < MOST:
                self.fault("to be cut, without a checksum left blank or of an odd size", frame)
        elif len(frame) > MOST:
            self.fault("longer than the MTU", frame)
        if self.of["IP"] in ether:
            ip = ether[self.of["IP"]]
            if self.checksum(frame[14:14 + ip.ihl * 4]) != 0:
                self.fault("IPv4 header's checksum", frame)
            if ip.len != len(frame) - 14:
                self.fault(f"IPv4 says {ip.len + 14} bytes", frame)
            if ip.flags.MF or ip.frag:
                return self.fragments[4].append(ip)
            self.transport(4, ip, ip.proto, frame[14 + ip.ihl * 4:], frame, flags, start - 14 - ip.ihl * 4, offset)
        elif self.of["IPv6"] in ether:
            ip = ether[self.of["IPv6"]]
            if ip.plen != len(frame) - 54:
                self.fault(f"IPv6 says {ip.plen + 54} bytes", frame)
            if self.of["Fragment"] in ether:
                return self.fragments[6].append(ip)
            if ip.nh in (socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMPV6):
                self.transport(6, ip, ip.nh, frame[54:], frame, flags, start - 54, offset)
        return None

    def transport(self, version, ip, protocol, data, frame, flags, start, offset):
        self.count((version, protocol))
        pseudo = lambda d: self.in4(protocol, ip, d) if version == 4 else self.in6(protocol, ip, d)
        if protocol == socket.IPPROTO_ICMP:
            if self.checksum(data) != 0:
                self.fault("ICMP checksum", frame)
            return
        if protocol == socket.IPPROTO_UDP and struct.unpack_from("!H", data, 4)[0] != len(data):
            self.fault("UDP length", frame)
        if flags & NEEDS_CSUM:
            self.blank += 1
            place = 16 if protocol == socket.IPPROTO_TCP else 6
            # in4_chksum of no data is the complement of the pseudo header's sum, but for the length, which is of the real data.
            addresses = socket.inet_pton(socket.AF_INET if version == 4 else socket.AF_INET6, ip.src) + socket.inet_pton(
                socket.AF_INET if version == 4 else socket.AF_INET6, ip.dst)
            wanted = 0xffff & ~self.checksum(addresses + struct.pack("!II", len(data), protocol))
            if start != 0 or offset != place or struct.unpack_from("!H", data, place)[0] not in (wanted, wanted or 0xffff):
                self.fault("a checksum left blank is not the pseudo header's sum", frame)
        elif protocol == socket.IPPROTO_UDP and version == 4 and data[6:8] == b"\0\0":
            pass  # has none
        elif pseudo(data) not in (0, 0xffff):
            self.fault(f"checksum of protocol {protocol} over IPv{version}", frame)

    def end(self):
        for ip in self.defragment(self.fragments[4]):
            data = bytes(ip)
            self.transport(4, ip, ip.proto, data[ip.ihl * 4:], data, 0, 0, 0)
        by_id = {}
        for ip in self.fragments[6]:
            by_id.setdefault((ip.src, ip[self.of["Fragment"]].id), []).append(ip)
        for parts in by_id.values():
            ip = self.defragment6(parts)
            data = bytes(ip)
            self.transport(6, ip, ip.nh, data[40:], data, 0, 0, 0)


def traffic(stacks, world, names):
    """Between each pair, both ways: streams, datagrams, and echoes of sizes that need fragments."""
    for name in names:
        world.start(f"iperf3-{name}", ["ip", "netns", "exec", name, "iperf3", "-s"], plain=True)
        world.wait("iperf3", lambda n=name: ":1451 " in stacks.run("ip", "netns", "exec", n, "cat", "/proc/net/tcp", "/proc/net/tcp6"))
    for a, sender in enumerate(names, 1):
        for b in range(1, len(names) + 1):
            if a == b:
                continue
            for to in (f"10.1.0.{b}", f"fd01::{b}"):
                stacks.run("ip", "netns", "exec", sender, "iperf3", "-c", to, "-n", BYTES)
                stacks.run("ip", "netns", "exec", sender, "iperf3", "-c", to, "-u", "-b", "50M", "-l", "1100", "-n", "100K")
                for size in ("0", "57", "1400", "9000"):
                    stacks.run("ip", "netns", "exec", sender, "ping", "-q", "-c", "2", "-i", "0.01", "-W", "5", "-s", size, to)


def inside(source, build):
    sys.dont_write_bytecode = True
    sys.path.insert(0, os.path.join(source, "tools/netbench"))
    import stacks  # noqa: PLC0415
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    for words in (("--make-rprivate", "/"), ("-t", "proc", "proc", "/proc"), ("-t", "sysfs", "sysfs", "/sys"), ("-t", "tmpfs", "tmpfs", "/mnt")):
        stacks.run("mount", *words)
    os.makedirs("/run/netns", exist_ok=True)
    stacks.run("mount", "-t", "tmpfs", "tmpfs", "/run/netns")
    world = stacks.World(build, "/mnt")
    try:
        switch = stacks.Switch(world, 1)
        world.core()
        names, captures = ["whole1", "whole2", "plain"], []
        for number, name in enumerate(names, 1):
            domid = switch.guest(number)
            stacks.namespace(name)
            words = ["ip", "netns", "exec", name, world.path("tools/netfront-tap/netfront-tap"), "--domid", domid, "--mac", switch.mac(number)]
            process = world.start(name, words + ["--no-offloads"] * (name == "plain"))
            world.wait("a guest's NIC", lambda p=process: "connected" in open(p.log, encoding="utf-8").read(), process)
            stacks.run("ip", "-n", name, "link", "set", "eth0", "up")
            stacks.run("ip", "-n", name, "address", "add", f"10.1.0.{number}/24", "dev", "eth0")
            stacks.run("ip", "-n", name, "address", "add", f"fd01::{number}/64", "dev", "eth0", "nodad")
            one = subprocess.Popen(["ip", "netns", "exec", name, sys.executable, __file__, "--capture", f"/mnt/{name}.frames"], stdout=subprocess.PIPE)
            world.processes.append(one)
            one.stdout.readline()
            captures.append(one)
        traffic(stacks, world, names)
        time.sleep(0.2)
        for one in captures:
            one.terminate()
            one.wait(10)
    finally:
        world.stop()
    problems = []
    for name in names:
        judge = Judge(name)
        for header, frame in frames(f"/mnt/{name}.frames"):
            judge.frame(header, frame)
        judge.end()
        problems += judge.faults
        kinds = {(4, socket.IPPROTO_TCP), (4, socket.IPPROTO_UDP), (4, socket.IPPROTO_ICMP), (6, socket.IPPROTO_TCP), (6, socket.IPPROTO_UDP),
                 (6, socket.IPPROTO_ICMPV6)}
        print(f"{name}: {sum(judge.seen.values())} packets, {judge.whole} to be cut later, {judge.blank} with a blank checksum; {len(judge.faults)} faults")
        if not kinds <= set(judge.seen) or not judge.fragments[4] or not judge.fragments[6]:
            problems.append(f"{name}: only these came: {judge.seen}")
        if name == "plain" and judge.whole + judge.blank:
            problems.append("plain: was given something unfinished")
        if name != "plain" and (judge.whole == 0 or judge.blank == 0):
            problems.append(f"{name}: nothing came whole, to be cut later")
    for problem in problems:
        print("FAILED", problem)
    return 1 if problems else 0


def main():
    if sys.argv[1] == "--capture":
        return capture(sys.argv[2])
    missing = [p for p in ("ip", "iperf3", "ping") if shutil.which(p) is None]
    try:
        import scapy  # noqa: F401, PLC0415
    except ImportError:
        missing.append("scapy")
    if os.geteuid() != 0 or missing:
        print(f"skipped: needs root, {' '.join(missing)}")
        return SKIPPED
    # The first of a process namespace: with it all that it has started ends.
    if ctypes.CDLL(None).unshare(0x20000 | 0x20000000 | 0x40000000) != 0:
        return SKIPPED
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = inside(*sys.argv[1:3])
        except Exception as error:  # noqa: BLE001
            print(f"FAILED {type(error).__name__}: {error}")
        sys.stdout.flush()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


sys.exit(main())
