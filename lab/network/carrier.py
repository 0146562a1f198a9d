"""What carriers do to packets: ``python -m lab.network.carrier --node NODE --lowest 5 --highest 8 --seed SEED``.

Every packet is late by the carrier's delay (lab.network.delay). A lossy carrier also drops a share that a process draws
anew each second, evenly between its bounds. nftables counts what came and what was dropped, so the truth is exact.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lab.errors import LabError
from lab.network import delay
from lab.network.design import Carrier, Design
from lab.sandbox.netns import inside

TABLE = "carrier"
QUEUE = 1
PARTS = 1_000_000  # resolution of a loss: 0.0001 %


@dataclass(frozen=True)
class Carried:
    """IPv4 packets that a carrier was given, both ways together, and those of them that it dropped."""

    packets: int
    lost: int


def start(design: Design, daemon: Callable[[str, list[str]], object]) -> None:
    """Make the carriers of a lab slow, and lossy where they are to be; ``daemon(name, argv)`` starts a process."""
    for carrier in design.transit.carriers if design.transit else ():
        _nft(carrier.switch, _script())
        if carrier.loss[1] > 0:
            daemon(f"loss-{carrier.switch}", _loss_command(carrier, design.seed))
        stage = delay.Stage(carrier.switch, QUEUE, carrier.microseconds, carrier.jitter, seed=design.seed)

        def spawn(argv: list[str], name: str = f"delay-{carrier.switch}") -> None:
            daemon(name, argv)

        delay.begin(stage, spawn)


def carried(carrier: str) -> Carried:
    """What crossed the carrier since the lab came up."""
    with inside(carrier):
        answer = subprocess.run(["nft", "-j", "list", "counters"], capture_output=True, check=True).stdout
    counters = [entry["counter"] for entry in json.loads(answer)["nftables"] if "counter" in entry]
    packets = {counter["name"]: int(counter["packets"]) for counter in counters if counter["table"] == TABLE}
    return Carried(packets["carried"], packets["lost"])


def _script() -> str:
    # Before the delay: what is lost does not wait. A chain of its own holds the loss, to be replaced alone.
    return f"""
    table ip {TABLE} {{
        counter carried {{ }}
        counter lost {{ }}
        chain loss {{ }}
        chain forward {{
            type filter hook forward priority -10;
            policy accept;
            counter name carried
            jump loss
        }}
    }}
    """


def _loss_command(carrier: Carrier, seed: int) -> list[str]:
    low, high = carrier.loss
    words = ["--node", carrier.switch, "--lowest", f"{low:g}", "--highest", f"{high:g}", "--seed", str(seed)]
    return [sys.executable, "-m", "lab.network.carrier", *words]


def _nft(node: str, text: str) -> None:
    with inside(node):
        done = subprocess.run(["nft", "-f", "-"], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"nft on {node}: {' '.join(done.stderr.split())}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab.network.carrier", description=__doc__)
    parser.add_argument("--node", required=True, help="the carrier's router")
    parser.add_argument("--lowest", type=float, required=True, help="percent of packets lost")
    parser.add_argument("--highest", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--period", type=float, default=1.0, help="seconds that one share lasts (default: 1)")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(words)
    rng = random.Random(f"loss {arguments.seed}")
    while True:
        percent = rng.uniform(arguments.lowest, arguments.highest)
        loss = f"numgen random mod {PARTS} < {round(percent / 100 * PARTS)} counter name lost drop"
        _nft(arguments.node, f"flush chain ip {TABLE} loss\nadd rule ip {TABLE} loss {loss}\n")
        print(f"{time.time():.3f} {percent:.3f}", flush=True)  # the truth, for whoever compares
        time.sleep(arguments.period)


if __name__ == "__main__":
    sys.exit(main())
