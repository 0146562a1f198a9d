"""The prober against fping, blackbox_exporter and an echo in C; how fast it is, what it costs, and what it loses.

``make bench-probes`` (ARGS=--only round-trips, saturation, agent or loss). Round trips and loss are those of a path
host - leaf - spine - leaf - host of a lab, everything else is on loopback. Absolute times are this machine's: look at
the ratios. Exit code 1 when probes were lost that the injector did not drop.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.agents import Agent, Cost
from benchmarks.rivals import Echo, Ends, Probed, blackbox, fping
from exporter.contracts.plan import ProbeType, Target
from lab.network.design import Host, draw
from lab.running import Running

FREELY = {
    "packets_per_second": 1e6,
    "packets_per_second_per_destination": 1e6,
    "trace_packets_per_second_per_switch": 1000,
}
PORT = 9105
SENT, LOST = "fabric_path_probes_sent_total", "fabric_path_probes_lost_total"
UNSENT, UNJUDGED = "fabric_path_probes_unsent_total", "fabric_exporter_prober_unjudged_probes_total"


def target(source: str, destination: str, port: int, period: float, probe: ProbeType = "udp") -> Target:
    return Target(
        path=f"{source}:{port}>{destination}/{probe}", source="a/r", destination="b/r", probe=probe,
        source_address=source, destination_address=destination, source_ports=(port,), traffic_class=2,
        payload_bytes=64, period_seconds=period, active=True,
    )  # fmt: skip


def probing(**more: object) -> dict[str, object]:
    settings = {"key_file": "key", "ceilings": FREELY, "responder_packets_per_second": 1e6}
    return {**settings, "trace_period_seconds": 86400, **more}


# ---- a path of a lab


class Stage:
    """Two hosts of a lab with an agent each, joined by one path."""

    def __init__(self, directory: Path, *, traced: bool) -> None:
        self.lab = Running(f"bench-probes-{os.getpid()}")
        self.design = draw(seed=7, pods=2, rails=1, spines=1, hosts_per_pod=1, tenants=0)
        self.lab.up(self.design, die_with_parent=True)
        near, far = self.design.hosts
        self.spine_link = next(link.id for link in self.design.links if "spine" in link.id)
        self.ends = Ends(self._enter(near), self._enter(far), near.rnics[0].address, far.rnics[0].address)
        self._probing = probing(timeout_seconds=5, spraying=not traced)  # where packets are sprayed nothing is traced
        self.far = Agent(self.ends.far, directory / "far", self._configuration(far))
        self.near = Agent(self.ends.near, directory / "near", self._configuration(near))

    def _enter(self, host: Host) -> Callable[[Sequence[str]], list[str]]:
        return lambda argv: self.lab.command(host.name, argv)

    def _configuration(self, host: Host) -> dict[str, object]:
        return {
            "host": host.name,
            "listen": {"address": host.management, "port": PORT},
            "rnics": [{"name": rnic.name, "ip": rnic.address} for rnic in host.rnics],
            "probing": self._probing,
        }

    def close(self) -> None:
        self.near.stop()
        self.far.stop()
        self.lab.down()


@contextmanager
def stage(*, traced: bool = True) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory() as directory:
        made = Stage(Path(directory), traced=traced)
        try:
            yield made
        finally:
            made.close()


def percentiles(values: Sequence[float]) -> str:
    if len(values) < 20:
        return f"{len(values):8}{'':32}"
    cuts = statistics.quantiles(values, n=1000, method="inclusive")
    return f"{len(values):8}" + "".join(f"{cuts[round(share * 10) - 1]:8.1f}" for share in (50, 90, 99, 99.9))


def paired(ours: Probed, rival: Probed) -> list[float]:
    """Our round trip less the rival's that began nearest to it, in microseconds."""
    differences = []
    for at, value in zip(ours.times, ours.round_trips, strict=True):
        place = bisect_left(rival.times, at)
        nearest = min((abs(rival.times[n] - at), n) for n in (place - 1, place) if 0 <= n < len(rival.times))
        differences.append(value - rival.round_trips[nearest[1]])
    return differences


def round_trips(rounds: int, seconds: float, period: float) -> None:
    """Each rival in turn, the agent all the time: on one path, at one rate."""
    with stage() as made, tempfile.TemporaryDirectory() as scratch:
        ends = made.ends
        echo = Echo(ends, Path(scratch))
        rivals: dict[str, Callable[[], Probed]] = {
            "echo in C": lambda: echo.probe(period, seconds),
            "fping": lambda: fping(ends, period, seconds),
            "blackbox icmp": lambda: blackbox(ends, "icmp", "rtt", period, seconds, Path(scratch)),
            "blackbox tcp": lambda: blackbox(ends, "tcp", "", period, seconds, Path(scratch)),
        }
        made.near.plan([target(ends.source, ends.destination, 40000, period)])
        time.sleep(3)
        found: dict[str, list[Probed]] = {name: [] for name in ("agent", *rivals)}
        differences: list[float] = []
        flagged = 0
        for _ in range(rounds):
            for name, probe in rivals.items():
                began, before = time.time(), made.near.cost()
                found[name].append(rival := probe())
                after, ended = made.near.cost(), time.time()
                rows = [row for row in made.near.records(began) if float(row["ping_time"]) < ended * 1e9]
                good = [row for row in rows if row["dial"] == "success" and row["starved"] != "1"]
                flagged += sum(row["starved"] == "1" for row in rows)
                ours = Probed(
                    [float(row["latency"]) for row in good], [float(row["ping_time"]) / 1e9 for row in good],
                    after["probing"].seconds - before["probing"].seconds, len(rows),
                )  # fmt: skip
                found["agent"].append(ours)
                if name == "echo in C":
                    differences += paired(ours, rival)
        echo.stop()
    print(f"\nRound trips of one path, {1 / period:g} probes a second, in turns of {seconds:g} s")
    print(f"{'us':16}{'probes':>8}{'p50':>8}{'p90':>8}{'p99':>8}{'p99.9':>8}{'us of CPU a probe':>20}")
    for name, results in found.items():
        values = [value for result in results for value in result.round_trips]
        cost = sum(result.processor_seconds for result in results) / sum(result.sent for result in results)
        print(f"{name:16}{percentiles(values)}{cost * 1e6:20.0f}")
    print(f"agent less echo in C, probe by probe: {statistics.median(differences):.1f} us in the median")
    print(f"{flagged} samples of the agent were flagged as starved, and are not in the table")


# ---- loss, against the injector's own count


def loss(probes: int, clean: int, rate: int) -> bool:
    """Whether the agent lost exactly what the injector dropped, and nothing on a clean path."""
    print(f"\nLoss on a path both ways, {rate} probes a second")
    print(
        f"{'injected':>10}{'probes':>10}{'dropped':>10}{'lost':>8}{'unsent':>8}{'unjudged':>10}{'flagged':>9}{'s':>7}"
    )
    good = True
    for percent, wanted in ((0.1, probes), (1.0, probes), (5.0, probes), (0.0, clean)):
        with stage(traced=False) as made:  # a packet of a trace is no probe, but would be dropped as well
            paths, ends = 100, made.ends
            made.near.plan([target(ends.source, ends.destination, 40000 + n, paths / rate) for n in range(paths)])
            time.sleep(5)  # past the greetings of new destinations
            began, earlier = time.monotonic(), made.near.totals()[SENT]
            if percent:
                made.lab.fault("silent-loss", made.spine_link, percent)
            while made.near.totals()[SENT] < earlier + wanted:
                time.sleep(1)
            # The prober stands still, for less than its timeout, while what is under way is answered.
            prober = made.near.processes()["probing"]
            os.kill(prober, signal.SIGSTOP)
            time.sleep(0.3)
            dropped = sum(json.loads(made.lab.act("dropped")).values())
            made.lab.act("heal", "all")
            os.kill(prober, signal.SIGCONT)
            before = made.near.totals()[SENT]
            time.sleep(6)
            totals = made.near.totals()
            counts = [totals[name] for name in (LOST, UNSENT, UNJUDGED, "fabric_exporter_prober_starved_probes_total")]
            spent = time.monotonic() - began
            figures = "".join(f"{round(count):{width}}" for count, width in zip(counts, (8, 8, 10, 9), strict=True))
            print(f"{percent:9}%{round(before - earlier):10}{dropped:10}{figures}{spent:7.0f}", flush=True)
            good &= totals[LOST] == dropped and not totals[UNJUDGED]
    return good


# ---- on loopback


@contextmanager
def pair(near: Sequence[str], far: Sequence[str], **more: object) -> Iterator[tuple[Agent, Agent]]:
    """Two agents of this machine, with RNICs at these addresses."""
    with tempfile.TemporaryDirectory() as directory:
        agents = []
        for number, addresses in enumerate((near, far)):
            rnics = [{"name": f"mlx5_{rail}", "ip": address, "netdev": "lo"} for rail, address in enumerate(addresses)]
            listen = {"address": "127.0.0.1", "port": PORT + number}
            configuration = {"host": f"host-{number}", "listen": listen, "rnics": rnics, "probing": probing(**more)}
            agents.append(Agent(list, Path(directory, str(number)), configuration))
        try:
            yield agents[0], agents[1]
        finally:
            for agent in agents:
                agent.stop()


def saturation(seconds: float) -> None:
    """Ever more probes a second, until the prober cannot keep up: what one core carries."""
    near, far = [f"127.0.1.{n}" for n in range(1, 9)], [f"127.0.2.{n}" for n in range(1, 9)]
    print(f"\nSaturation: 8 RNICs x 8 source ports x 4 destinations on loopback, {seconds:g} s each")
    print(f"{'asked/s':>10}{'sent/s':>10}{'lost':>8}{'unsent':>8}{'prober':>9}{'us a probe':>12}{'a core carries':>16}")
    for rate in (2_000, 5_000, 10_000, 20_000, 25_000):
        with pair(near, far) as (asking, _):
            places = [(rail, port, step) for rail in range(8) for port in range(8) for step in range(4)]
            asking.plan(
                [
                    target(near[rail], far[(rail + step) % 8], 40000 + port, len(places) / rate)
                    for rail, port, step in places
                ]
            )
            time.sleep(3)
            first, before, began = asking.totals(), asking.cost()["probing"], time.monotonic()
            time.sleep(seconds)
            last, after, spent = asking.totals(), asking.cost()["probing"], time.monotonic() - began
            sent, lost, unsent = (last[name] - first[name] for name in (SENT, LOST, UNSENT))
            busy = after.seconds - before.seconds
            print(
                f"{rate:10}{sent / spent:10.0f}{lost:8.0f}{unsent:8.0f}{busy / spent:9.0%}{busy / sent * 1e6:12.1f}"
                f"{sent / busy:16.0f}",
                flush=True,
            )


def agent(seconds: float) -> None:
    """What an agent costs that probes 8 x 25 paths at 1 Hz, and answers as many."""
    near, far = [f"127.0.1.{n}" for n in range(1, 9)], [f"127.0.2.{n}" for n in range(1, 9)]

    def plan(ours: Sequence[str], theirs: Sequence[str]) -> list[Target]:
        return [target(ours[rail], theirs[(rail + n) % 8], 40000 + n, 1.0) for rail in range(8) for n in range(25)]

    def measure(asking: Agent) -> tuple[dict[str, Cost], dict[str, Cost], float]:
        before, began = asking.cost(), time.monotonic()
        ends = began + seconds
        while time.monotonic() < ends:
            asking.read("/metrics")  # as Prometheus does
            time.sleep(min(15.0, max(0.0, ends - time.monotonic())))
        return before, asking.cost(), time.monotonic() - began

    print(f"\nAn agent: 8 RNICs x 25 paths at 1 Hz, scraped each 15 s, {seconds:g} s each")
    print(f"{'of one core':12}{'idle':>10}{'probes':>10}{'both ways':>12}{'MiB PSS':>10}")
    columns: list[dict[str, float]] = []
    with pair(near, far) as (asking, answering):
        for ours, theirs in (((), ()), (plan(near, far), ()), (plan(near, far), plan(far, near))):
            asking.plan(ours)
            answering.plan(theirs)
            time.sleep(5)
            before, after, spent = measure(asking)
            columns.append({name: (cost.seconds - before[name].seconds) / spent for name, cost in after.items()})
        memory = {name: cost.pss_mib for name, cost in asking.cost().items()}
    for name, pss in memory.items():
        print(f"{name:12}" + _shares([column[name] for column in columns]) + f"{pss:10.1f}")
    print(f"{'in all':12}" + _shares([sum(column.values()) for column in columns]) + f"{sum(memory.values()):10.1f}")


def _shares(values: Sequence[float]) -> str:
    return "".join(f"{value:{width}.2%}" for value, width in zip(values, (10, 10, 12), strict=True))


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probes", description=__doc__)
    parts = ("round-trips", "saturation", "agent", "loss")
    parser.add_argument("--only", choices=parts, nargs="+", default=parts)
    parser.add_argument("--quick", action="store_true", help="a tenth of the time: to see that it runs")
    arguments = parser.parse_args(words)
    scale = 0.1 if arguments.quick else 1.0
    good = True
    if "round-trips" in arguments.only:
        round_trips(rounds=max(1, round(5 * scale)), seconds=max(5.0, 20 * scale), period=0.02)
    if "saturation" in arguments.only:
        saturation(max(3.0, 10 * scale))
    if "agent" in arguments.only:
        agent(60 * scale)
    if "loss" in arguments.only:
        good = loss(probes=round(100_000 * scale), clean=round(1_000_000 * scale), rate=3_000)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
