# SPDX-License-Identifier: Apache-2.0
"""netbench's measurements. Slices of all stacks take turns, so that a machine that changes its speed changes it for all of them; what is
reported is medians with their extremes, and beside each part what the machine's primitives cost at that moment."""
import json
import os
import statistics
import subprocess
import time

import stacks

# Of a frame on a wire, with its checksum: the sizes of RFC 2544, section 9.1, and the usual mix.
SIZES = {"64": [64], "128": [128], "256": [256], "512": [512], "1024": [1024], "1280": [1280], "1518": [1518],
         "imix": [64, 594, 64, 64, 594, 64, 594, 64, 64, 594, 64, 1518]}
CHECKSUM = 4  # bytes that only a wire has
QUIET = 0.05  # cores that others may use during a slice


def cpu_of(pids):
    """Seconds, of all threads."""
    total = 0
    for pid in pids:
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/schedstat", encoding="utf-8") as file:
                    total += int(file.read().split()[0])
        except (OSError, ValueError):
            pass
    return total / 1e9


def busy():
    """Seconds that all cores have worked, whoever for."""
    with open("/proc/stat", encoding="utf-8") as file:
        fields = [int(word) for word in file.readline().split()[1:]]
    return (sum(fields[:3]) + sum(fields[5:8])) / os.sysconf("SC_CLK_TCK")


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


class Bench:
    def __init__(self, world, stacks_up, settings, progress):
        self.world, self.stacks, self.settings, self.progress = world, stacks_up, settings, progress
        self.faults = 0

    def calibrate(self):
        for stack in self.stacks:
            stack.freeze(True)
        done = stacks.run(self.world.path("tools/netbench/netbench-load"), "--calibrate", env=self.world.environment)
        return json.loads(done)

    def slice(self, stack, size, **job):
        """One job on one stack, with what it cost; once more while others are busy."""
        for attempt in range(2):
            stack.freeze(False)
            if stack.polls:
                time.sleep(0.05)
                stack.cycles()
            switch, machine, began = cpu_of(stack.pids()), busy(), time.monotonic()
            result = stack.job(sizes=[s - CHECKSUM for s in SIZES[size]], **job)
            result["wall"] = time.monotonic() - began
            result["switch_cpu_seconds"] = cpu_of(stack.pids()) - switch
            others = busy() - machine - result["switch_cpu_seconds"] - result["generator_cpu_seconds"]
            result["noisy"] = others / result["wall"] > QUIET
            if stack.polls:
                result["busy_cycles"] = stack.cycles()
            stack.freeze(True)
            if not result["noisy"] or attempt == 1 or self.settings.quick:
                break
        self.faults += result["wrong"] + result["duplicates"] + result["out_of_order"]
        return result

    def rates(self):
        """As many frames as go."""
        part = {"calibration": self.calibrate(), "results": []}
        for size in self.settings.sizes:
            slices = {stack.name: [] for stack in self.stacks}
            for _ in range(self.settings.rounds):
                for stack in self.stacks:
                    self.progress.step(f"{size} bytes, {stack.title}")
                    slices[stack.name].append(self.slice(stack, size, seconds=self.settings.seconds))
            for stack in self.stacks:
                part["results"].append(self.rate(stack, size, slices[stack.name], part["calibration"]["tsc_ghz"]))
        return part

    def rate(self, stack, size, slices, ghz):
        count = lambda key: sum(s[key] for s in slices)
        received = max(count("received"), 1)
        gigabits = max(count("received_bytes") * 8 / 1e9, 1e-9)
        cpu = count("switch_cpu_seconds") + count("generator_cpu_seconds")
        result = {"stack": stack.name, "size": size,
                  "mpps": spread([s["received"] / s["seconds"] / 1e6 for s in slices]),
                  "gbit_s": spread([s["received_bytes"] * 8 / s["seconds"] / 1e9 for s in slices]),
                  "lost": 1 - count("received") / max(count("sent"), 1),
                  "cpu_ns_per_packet": cpu / received * 1e9, "cpu_seconds_per_gigabit": cpu / gigabits,
                  "wrong": count("wrong"), "duplicates": count("duplicates"), "out_of_order": count("out_of_order"),
                  "noisy_slices": sum(s["noisy"] for s in slices)}
        if stack.pids():
            result["switch_cpu_ns_per_packet"] = count("switch_cpu_seconds") / received * 1e9
            result["switch_cpu_seconds_per_gigabit"] = count("switch_cpu_seconds") / gigabits
            # Of its CPU time, sleeping and polling left in; one that polls tells what it was busy for.
            result["switch_cycles_per_packet"] = count("switch_cpu_seconds") / received * 1e9 * ghz
        cycles = [s["busy_cycles"] for s in slices if s.get("busy_cycles")]
        if cycles:
            result["switch_cycles_per_packet"] = statistics.median(cycles)
        return result

    def cost(self):
        """A packet in the switch itself, in one thread, without a scheduler."""
        part = {"calibration": self.calibrate()}
        self.progress.step("the switch alone")
        words = ["--rounds", "1", "--seconds", "0.02", "--ports", "20"] if self.settings.quick else ["--seconds", "0.5"]
        done = subprocess.run([self.world.path("tools/netbench/netbench-cost"), "--json", *words], env=self.world.environment, capture_output=True,
                              text=True, timeout=300)
        if done.returncode != 0:
            raise stacks.Failed(f"netbench-cost: {done.stderr.strip()}")
        return part | json.loads(done.stdout)

    def loss_free(self, rates):
        """RFC 2544, section 26.1: the highest rate at which nothing is lost. A trial that loses is done once more: on a machine whose
        cores are shared, one lost time slice is not the switch's."""
        part = {"calibration": self.calibrate(), "trial_seconds": self.settings.trial, "results": []}
        for size in self.settings.sizes:
            for stack in self.stacks:
                most = next(r["mpps"]["max"] for r in rates["results"] if r["stack"] == stack.name and r["size"] == size) * 1e6
                low, high, best = 0.0, most * 1.1, 0.0
                for step in range(self.settings.steps):
                    # The first try is what went through anyway: most of the time it is close.
                    rate = most * 0.9 if step == 0 else (low + high) / 2
                    self.progress.step(f"{size} bytes, {stack.title}, {rate / 1e6:.3f} Mpps")
                    if self.passes(stack, size, rate):
                        low = best = rate
                    else:
                        high = rate
                part["results"].append({"stack": stack.name, "size": size, "mpps": best / 1e6, "of_most": best / max(most, 1)})
        return part

    def passes(self, stack, size, rate):
        for _ in range(2):
            trial = self.slice(stack, size, seconds=self.settings.trial, rate=rate)
            if trial["received"] == trial["sent"] and trial["sent"] >= 0.99 * rate * trial["seconds"]:
                return True
        return False

    def latency(self, found):
        """One way, from the sender's clock to the receiver's look: with a frame each millisecond, and at half of the rate without loss."""
        part = {"calibration": self.calibrate(), "results": []}
        for stack in self.stacks:
            size = self.settings.sizes[0]
            best = next(r["mpps"] for r in found["results"] if r["stack"] == stack.name and r["size"] == size) * 1e6
            for load, rate in (("idle", 1000), ("half", best / 2)):
                self.progress.step(f"{load}, {stack.title}")
                if rate == 0:
                    continue  # no rate was without loss
                got = self.slice(stack, size, seconds=self.settings.seconds, rate=rate)
                part["results"].append({"stack": stack.name, "size": size, "load": load, "rate_mpps": rate / 1e6, "noisy": got["noisy"],
                                        **got["latency_us"]})
        return part

    def flood(self, found):
        """What a third guest's broadcasts, as many as it can send, take from two others at half of their rate without loss."""
        part = {"calibration": self.calibrate(), "results": []}
        for stack in (s for s in self.stacks if len(s.ends()) > 2):
            size = self.settings.sizes[0]
            rate = next(r["mpps"] for r in found["results"] if r["stack"] == stack.name and r["size"] == size) * 1e6 / 4
            got = {}
            for flood in (False, True):
                self.progress.step(f"{'a flood' if flood else 'no flood'}, {stack.title}")
                got[flood] = self.slice(stack, size, seconds=self.settings.seconds, rate=rate, flood=flood) if rate else None
            if rate:
                share = {k: v["received"] / max(v["sent"], 1) for k, v in got.items()}
                part["results"].append({"stack": stack.name, "offered_mpps": rate / 1e6, "flooded_mpps": got[True]["flooded"] / got[True]["seconds"] / 1e6,
                                        "arrived_without": share[False], "arrived_with": share[True]})
        return part

    def tcp(self):
        part = {"calibration": self.calibrate(), "results": []}
        slices = {}
        for stack in self.stacks:
            stack.disconnect()
            stack.freeze(False)
            stack.start_tcp()
            stack.server = self.world.start(f"iperf3-{stack.name}", ["ip", "netns", "exec", stack.tcp[1], "iperf3", "-s", "-B", stack.address(2)], plain=True)
            # Its log would say "listening" only when it is full.
            self.world.wait("iperf3", lambda s=stack: listening(s.tcp[1]), stack.server)
            stack.freeze(True)
        for _ in range(self.settings.rounds):
            for stack in self.stacks:
                for streams in (1,) if self.settings.quick else (1, 4):
                    self.progress.step(f"TCP, {streams} streams, {stack.title}" if streams > 1 else f"TCP, {stack.title}")
                    stack.freeze(False)
                    switch, machine = cpu_of(stack.pids()), busy()
                    done = subprocess.run(["ip", "netns", "exec", stack.tcp[0], "iperf3", "-J", "-t", str(self.settings.tcp_seconds), "-P", str(streams),
                                           "-c", stack.address(2)], capture_output=True, text=True, timeout=self.settings.tcp_seconds * 2 + 30)
                    cpu, whole = cpu_of(stack.pids()) - switch, busy() - machine
                    stack.freeze(True)
                    told = json.loads(done.stdout or "{}")
                    if "error" in told or "end" not in told:
                        raise stacks.Failed(f"{stack.name}: iperf3: {told.get('error', done.stderr)}")
                    got = told["end"]["sum_received"]
                    slices.setdefault((stack, streams), []).append((got["bits_per_second"] / 1e9, whole / (got["bytes"] * 8 / 1e9), cpu / (got["bytes"] * 8 / 1e9),
                                                                     told["end"]["sum_sent"].get("retransmits", 0)))
        for (stack, streams), got in slices.items():
            part["results"].append({"stack": stack.name, "streams": streams, "gbit_s": spread([g[0] for g in got]),
                                    "machine_cpu_seconds_per_gigabit": statistics.median(g[1] for g in got),
                                    "switch_cpu_seconds_per_gigabit": statistics.median(g[2] for g in got) if stack.pids() else None,
                                    "retransmits": sum(g[3] for g in got)})
        return part


def listening(name):
    return ":5201" in stacks.run("ip", "netns", "exec", name, "cat", "/proc/net/tcp", "/proc/net/tcp6").replace(":1451 ", ":5201 ")
