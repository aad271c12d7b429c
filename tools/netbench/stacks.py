# SPDX-License-Identifier: Apache-2.0
"""What netbench compares: each a way from one guest to another, with its ends for frames and a network namespace for each whole TCP/IP
stack. All run in namespaces of netbench's own, so that nothing of them is left whatever happens."""
import glob
import json
import os
import shutil
import signal
import subprocess
import time

PATIENCE = 20  # seconds, for a daemon to come up
GENERATOR_CPU, SWITCH_CPU = 0, 1


class Missing(Exception):
    """Something that has to be on the machine is not; says what mends that."""


class Failed(Exception):
    pass


def need(command, package):
    if shutil.which(command, path=os.environ["PATH"] + ":/usr/sbin:/sbin") is None:
        raise Missing(f"{command} is missing; as root: apt-get install {package}")


def run(*words, **more):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=60, **more)
    if done.returncode != 0:
        raise Failed(f"{' '.join(str(w) for w in words)}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


def pin(pid, cpus):
    """A process and all its threads."""
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            os.sched_setaffinity(int(task), cpus)
        except OSError:
            pass  # it has just ended


def all_cpus():
    return set(range(os.cpu_count() or 1))


def one_cpu(number):
    return {number % (os.cpu_count() or 1)}


class World:
    """The machine as this run has it: where things are, and every process that was started."""

    def __init__(self, build, work):
        self.build, self.work, self.processes = build, work, []
        self.environment = os.environ | {"RINGBACK_CORE": f"{work}/core", "XENSTORED_PATH": f"{work}/core/store",
                                         "LD_LIBRARY_PATH": f"{build}/hypervisor/embedded"}
        self.core_runs = False

    def path(self, name):
        return os.path.join(self.build, name)

    def start(self, name, words, cpus=None, plain=False, **more):
        log = open(f"{self.work}/{name}.log", "w", encoding="utf-8")
        process = subprocess.Popen([str(w) for w in words], stdin=more.pop("stdin", subprocess.DEVNULL),
                                   stdout=more.pop("stdout", log), stderr=log, cwd=self.work,
                                   env=os.environ if plain else self.environment, **more)
        process.log = f"{self.work}/{name}.log"
        self.processes.append(process)
        if cpus:
            pin(process.pid, cpus)
        return process

    def wait(self, what, condition, process=None):
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end or (process and process.poll() is not None):
                tail = ""
                if process:
                    with open(process.log, encoding="utf-8", errors="replace") as log:
                        tail = ": " + log.read()[-400:].strip()
                raise Failed(f"waited in vain for {what}{tail}")
            time.sleep(0.02)

    def stop(self):
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def corectl(self, *words):
        return run(self.path("hypervisor/embedded/corectl"), *words, env=self.environment).strip()

    def core(self):
        if self.core_runs:
            return
        os.mkdir(f"{self.work}/core")
        os.mkdir(f"{self.work}/run")
        core = self.start("core", [self.path("hypervisor/embedded/ringback-core"), "--directory", f"{self.work}/core"])
        self.wait("the embedded core", lambda: os.path.exists(f"{self.work}/core/store"), core)
        with open(f"{self.work}/netbackd.toml", "w", encoding="utf-8") as file:
            file.write('[switch]\nnames = "lan0"\n')
        netbackd = self.start("netbackd", [self.path("netback/netbackd"), "--config", "netbackd.toml", "--spawn-worker", "--worker-program",
                                           self.path("netback/worker/netback-worker"), "--runtime-directory", f"{self.work}/run"])
        self.wait("netbackd", lambda: os.path.exists(f"{self.work}/run/netbackd.sock"), netbackd)
        self.core_runs = True

    def worker(self):
        for comm in glob.glob("/proc/[0-9]*/comm"):
            try:
                with open(comm, encoding="utf-8") as file:
                    if file.read().strip() == "netback-worker":
                        return int(comm.split("/")[2])
            except OSError:
                pass
        return None


def namespace(name, device=None):
    run("ip", "netns", "add", name)
    run("ip", "-n", name, "link", "set", "lo", "up")
    if device:
        run("ip", "link", "set", device, "netns", name)


def veth(name_space, peer, name="eth0"):
    """A namespace whose device `name` has `peer` out here."""
    namespace(name_space)
    run("ip", "link", "add", peer, "type", "veth", "peer", "name", name, "netns", name_space)
    run("ip", "link", "set", peer, "up")
    # What the host's stack would send on its own is no part of this.
    run("ip", "netns", "exec", name_space, "sh", "-c", f"echo 1 >/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
    run("ip", "-n", name_space, "link", "set", name, "up")


class Stack:
    split = False          # the generator's two ends have a thread each
    ours = False
    polls = False          # a thread of it never sleeps, so it is stopped while others are measured

    def __init__(self, world, number):
        self.world, self.number = world, number
        self.load = None

    def check(self):
        need("ip", "iproute2")

    def mac(self, guest):
        return f"00:16:3e:00:{self.number:02x}:{guest:02x}"

    def pids(self):
        """The processes that forward; none: the kernel does, in its senders' time."""
        return []

    def address(self, guest):
        return f"10.{self.number}.0.{guest}"

    def give_addresses(self):
        for guest, name in enumerate(self.tcp, 1):
            run("ip", "-n", name, "address", "add", f"{self.address(guest)}/24", "dev", "eth0")

    def freeze(self, still):
        if self.polls:
            for pid in self.pids():
                os.kill(pid, signal.SIGSTOP if still else signal.SIGCONT)

    def connect(self):
        ends = self.ends()
        words = [self.world.path("tools/netbench/netbench-load"), "--from", ends[0], "--to", ends[1]]
        if len(ends) > 2:
            words += ["--flood", ends[2]]
        if self.split:
            words.append("--split")
        self.load = self.world.start(f"load-{self.name}", words, one_cpu(GENERATOR_CPU), stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, text=True)
        self.answer()

    def answer(self):
        line = self.load.stdout.readline()
        if not line:
            self.load.wait(10)
            with open(self.load.log, encoding="utf-8") as log:
                raise Failed(f"{self.name}: {log.read().strip()[-300:]}")
        return json.loads(line)

    def job(self, **job):
        self.load.stdin.write(json.dumps(job) + "\n")
        self.load.stdin.flush()
        return self.answer()

    def disconnect(self):
        """Before the TCP/IP stacks come."""
        if self.load:
            self.load.stdin.close()
            self.load.wait(20)
            self.load = None


class Rings(Stack):
    """Two guests of the embedded core."""
    ours = True

    def check(self):
        super().check()
        for program in ("hypervisor/embedded/ringback-core", "hypervisor/embedded/corectl", "netback/netbackd", "netback/worker/netback-worker",
                        "tools/netfront-tap/netfront-tap", "tools/netbench/netbench-load"):
            if not os.path.exists(self.world.path(program)):
                raise Missing(f"{self.world.path(program)} is missing; ninja -C {self.world.build}")

    def pids(self):
        return [self.world.worker()]

    def guest(self, number):
        domid = self.world.corectl("create", f"{self.name}{number}", "--memory", 64)
        self.attach(domid, self.mac(number))
        return domid

    def start(self):
        self.world.core()
        self.prepare()
        self.guests = [self.guest(number) for number in (1, 2, 3)]

    def prepare(self):
        pass

    def ends(self):
        return [f"ring,{domid},{self.mac(i)}" for i, domid in enumerate(self.guests, 1)]

    def connect(self):
        super().connect()
        pin(self.world.worker(), one_cpu(SWITCH_CPU))

    def start_tcp(self):
        pin(self.world.worker(), all_cpus())
        self.tcp = []
        for number in (11, 12):
            domid, name = self.guest(number), f"{self.name}{number}"
            namespace(name)
            process = self.world.start(f"tap-{name}", ["ip", "netns", "exec", name, self.world.path("tools/netfront-tap/netfront-tap"), "--domid",
                                                       domid, "--mac", self.mac(number)])
            self.world.wait("a guest's NIC", lambda: "connected" in open(process.log, encoding="utf-8").read(), process)
            run("ip", "-n", name, "link", "set", "eth0", "up")
            self.tcp.append(name)
        self.give_addresses()


class Switch(Rings):
    name, title = "switch", "Ringback's switch"
    what = "guests' rings, netback-worker's built-in switch"

    def attach(self, domid, mac):
        self.world.corectl("network-attach", domid, "--mac", mac, "--bridge", "lan0", "--script", "vif-ringback")


class Tap(Rings):
    name, title = "tap", "Ringback, TAPs on a bridge"
    what = "guests' rings, netback-worker, TAPs, a Linux bridge"

    def prepare(self):
        run("ip", "link", "add", "xenbr0", "type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0")
        run("ip", "link", "set", "xenbr0", "up")

    def attach(self, domid, mac):
        self.world.corectl("network-attach", domid, "--mac", mac)
        run("ip", "link", "set", f"vif{domid}.0", "master", "xenbr0", "up")


class Bridge(Stack):
    name, title = "bridge", "Linux bridge"
    what = "packet sockets on veths, a Linux bridge; a core for the sender, in whose time it forwards, and one for the receiver"
    split = True

    def start(self):
        run("ip", "link", "add", "nbbr0", "type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0")
        run("ip", "link", "set", "nbbr0", "up")
        self.tcp = ["nb1", "nb2"]
        for name in self.tcp:
            veth(name, f"{name}.0")
            run("ip", "link", "set", f"{name}.0", "master", "nbbr0")

    def ends(self):
        return [f"packet,{name},eth0,{self.mac(i)}" for i, name in enumerate(self.tcp, 1)]

    def start_tcp(self):
        self.give_addresses()


class OpenVswitch(Stack):
    """Open vSwitch's userspace datapath on veths; with DPDK: virtio-user for frames, and TCP segmentation left to the veths."""
    name, title = "ovs", "Open vSwitch"
    what = "packet sockets on veths, Open vSwitch's userspace datapath without DPDK"
    dpdk = False

    def program(self):
        # By these names, whichever of them the host's alternatives say is "ovs-vswitchd".
        return f"/usr/lib/openvswitch-switch{'-dpdk' * self.dpdk}/ovs-vswitchd{'-dpdk' * self.dpdk}"

    def check(self):
        super().check()
        need("ovsdb-server", "openvswitch-switch")
        if not os.path.exists(self.program()):
            raise Missing(f"{self.program()} is missing; as root: apt-get install openvswitch-switch{'-dpdk' * self.dpdk}")
        if not self.dpdk:
            need("ethtool", "ethtool")

    def vsctl(self, *words):
        return run("ovs-vsctl", "--timeout=20", f"--db=unix:{self.home}/db.sock", *words)

    def appctl(self, *words):
        return run("ovs-appctl", "-t", self.control, *words)

    def pids(self):
        return [self.daemon.pid]

    def start(self):
        world = self.world
        self.home = f"{world.work}/{self.name}"
        os.mkdir(self.home)
        environment = os.environ | {"OVS_RUNDIR": self.home, "OVS_LOGDIR": self.home, "OVS_DBDIR": self.home, "OVS_SYSCONFDIR": self.home}
        run("ovsdb-tool", "create", f"{self.home}/conf.db", "/usr/share/openvswitch/vswitch.ovsschema")
        world.environment, kept = environment, world.environment
        database = world.start(f"ovsdb-{self.name}", ["ovsdb-server", f"{self.home}/conf.db", f"--remote=punix:{self.home}/db.sock"])
        world.wait("ovsdb-server", lambda: os.path.exists(f"{self.home}/db.sock"), database)
        self.vsctl("--no-wait", "init")
        if self.dpdk:
            self.vsctl("--no-wait", "set", "Open_vSwitch", ".", "other_config:dpdk-init=true", "other_config:userspace-tso-enable=true",
                       "other_config:pmd-cpu-mask=" + hex(1 << next(iter(one_cpu(SWITCH_CPU)))),
                       'other_config:dpdk-extra="--no-pci --no-huge --legacy-mem -m 2048"')
        self.control = f"{self.home}/control"
        self.daemon = world.start(self.name, [self.program(), f"unix:{self.home}/db.sock", f"--unixctl={self.control}"])
        world.environment = kept
        world.wait(self.name, lambda: os.path.exists(self.control), self.daemon)
        self.vsctl("add-br", f"{self.name}-br", "--", "set", "bridge", f"{self.name}-br", "datapath_type=netdev")
        self.tcp = [f"{self.name}1", f"{self.name}2"]
        for name in self.tcp:
            veth(name, f"{name}.0")
            self.vsctl("add-port", f"{self.name}-br", f"{name}.0")
        self.start_ports()

    def start_ports(self):
        if not self.dpdk:
            pin(self.daemon.pid, one_cpu(SWITCH_CPU))

    def ends(self):
        return [f"packet,{name},eth0,{self.mac(i)}" for i, name in enumerate(self.tcp, 1)]

    def start_tcp(self):
        if not self.dpdk:
            pin(self.daemon.pid, all_cpus())
            # Its packet sockets take no checksum that is left to be filled in.
            for name in self.tcp:
                run("ethtool", "-K", f"{name}.0", "tx", "off")
                run("ip", "netns", "exec", name, "ethtool", "-K", "eth0", "tx", "off")
        self.give_addresses()


class OpenVswitchDpdk(OpenVswitch):
    name, title = "ovs-dpdk", "Open vSwitch with DPDK"
    what = "virtio-user ports, Open vSwitch's DPDK datapath, NORMAL action, one polling thread; TCP: veths, segmentation left to them"
    dpdk = True
    polls = True

    def start_ports(self):
        self.vsctl("add-br", "vu-br", "--", "set", "bridge", "vu-br", "datapath_type=netdev")
        for number in (1, 2):
            self.vsctl("add-port", "vu-br", f"vu{number}", "--", "set", "Interface", f"vu{number}", "type=dpdkvhostuserclient",
                       f"options:vhost-server-path={self.home}/vu{number}")

    def ends(self):
        return [f"virtio,{self.home}/vu{i},{self.mac(i)}" for i in (1, 2)]

    def cycles(self):
        """Of a packet, while its thread was busy, since the last call."""
        text = self.appctl("dpif-netdev/pmd-stats-show")
        self.appctl("dpif-netdev/pmd-stats-clear")
        for line in text.splitlines():
            if "avg processing cycles per packet" in line:
                return float(line.split(":")[1].split()[0])
        return None


ALL = [Switch, Tap, Bridge, OpenVswitchDpdk, OpenVswitch]
