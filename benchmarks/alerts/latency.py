"""Random faults of links, one after the other, and when each part of the pipeline knew; from inside a sandbox:
``python -m benchmarks.alerts.latency --profile fast --faults N --seed N --output DIR``.

Every moment is told by the part itself: the probe's record, the time of a scrape's sample, that of a rule's sample,
Alertmanager's own update time, the arrival at the webhook.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from exporter.contracts.plan import Target
from lab.demo.monitoring import ALERTMANAGER_PORT, PROMETHEUS_PORT
from lab.errors import LabError
from lab.narrator import Narrator
from lab.scenarios.watched import FAST, WatchedScene
from skeleton_service.ruleset import Thresholds, timing

ALERT = "FabricLinkLoss"
SUSPECT = "job_link:fabric_link_suspect:loss_ratio"
PROFILES = {"fast": FAST, "stock": Thresholds()}
HOPS = ("scraped", "above threshold", "pending", "firing", "at Alertmanager", "notified")
"""After the first lost probe."""
LEAST, MOST = 20.0, 40.0
"""Percent of the packets lost by every other fault; by the rest all."""
Labels = dict[str, str]


class Moments(threading.Thread):
    """Asks Alertmanager which alerts it has, and keeps when it was first told of each link's."""

    def __init__(self) -> None:
        super().__init__(name="alertmanager", daemon=True)
        self.updated: dict[str, list[float]] = {}

    def run(self) -> None:
        words = urlencode({"filter": f'alertname="{ALERT}"'})
        while True:
            try:
                with urlopen(f"http://127.0.0.1:{ALERTMANAGER_PORT}/api/v2/alerts?{words}", timeout=10) as answer:
                    alerts = json.load(answer)
            except OSError:
                alerts = []
            for alert in alerts:
                moment = datetime.fromisoformat(alert["updatedAt"].replace("Z", "+00:00")).timestamp()
                self.updated.setdefault(alert["labels"]["link"], []).append(moment)
            time.sleep(0.2)


class Latency:
    def __init__(self, profile: str, seed: int, output: Path, narrator: Narrator) -> None:
        self.profile, self.narrator = profile, narrator
        self.draw = random.Random(f"{seed}/latency")
        thresholds = PROFILES[profile]
        self.timing = timing(thresholds)
        self.scrape = float(self.timing.interval.removesuffix("s"))
        self.window = float(self.timing.window.removesuffix("s"))
        self.stage = WatchedScene(
            {}, seed, output / "run", narrator, thresholds, as_shipped=profile == "stock", in_containers=False
        )
        self.moments = Moments()
        self.timeout = 20.0 + 6 * self.scrape + self.window

    def measure(self, faults: int) -> dict[str, Any]:
        self.stage.begin()
        self.moments.start()
        self.stage.wait_quiet(self.window + 2 * self.scrape, timeout=120 + 10 * self.scrape)
        links = self._links()
        rows = []
        for number in range(faults):
            link = self.draw.choice([each for each in links if each not in self._told()])
            percent = 100.0 if number % 2 else self.draw.uniform(LEAST, MOST)
            with self.narrator.step(f"fault {number + 1} of {faults}") as step:
                row = self._one(link, percent)
                rows.append(row)
                if number < faults - 1:
                    self._wait_over()
                hops = ", ".join(f"{hop} {row['moments'][hop]:.1f}" for hop in HOPS if hop in row["moments"])
                step.detail = f"{percent:.0f} % on {link}: {hops or 'never told'}"
        seconds, missed = self.stage.monitoring.evaluations()
        return {
            "profile": self.profile,
            "evaluation": seconds,
            "missed": missed,
            "timing": {
                "scrape": self.timing.interval,
                "window": self.timing.window,
                "for": self.timing.for_,
                "group_wait": "1s",
            },
            "hops": list(HOPS),
            "faults": rows,
        }

    def _links(self) -> list[str]:
        """Links between leaf and spine that the job's paths cross and that its probes can tell apart."""
        scene = self.stage.scene
        spines = {switch.name for switch in scene.design.spines}
        between = {link.id for link in scene.design.links if link.b.node in spines}
        coverage = scene.plans["underlay"].coverage
        ambiguous = {link for group in (coverage.links_ambiguous if coverage else ()) for link in group}
        crossed = self.stage.monitoring.query("count by (link) (fabric_path_link_info) > 3")
        return sorted({labels["link"] for labels, _ in crossed} & between - ambiguous)

    def _one(self, link: str, percent: float) -> dict[str, Any]:
        stage, monitoring = self.stage, self.stage.monitoring
        paths = {labels["path"] for labels, _ in monitoring.query(f'fabric_path_link_info{{link="{link}"}}')}
        time.sleep(self.draw.uniform(0, self.scrape))  # at any phase of scrapes and evaluations
        since = len(stage.receiver.notifications)
        load = os.getloadavg()[0]
        injected = time.time()
        stage.scene.faults.inflict("silent-loss", link, percent)
        told = stage.receiver.wait(
            lambda n: n.status == "firing" and n.name == ALERT and n.component == link, self.timeout, since
        )
        if told is not None:  # until the store has what was evaluated at the same time
            time.sleep(1.0)
        lost = self._first_lost(paths, injected)
        moments: dict[str, float] = {}
        if told is not None and lost is not None:
            known = {
                "scraped": self._scraped(paths, injected),
                "above threshold": self._first(f'{SUSPECT}{{link="{link}"}}', injected),
                "pending": self._first(f'ALERTS{{alertname="{ALERT}",link="{link}",alertstate="pending"}}', injected),
                "firing": self._first(f'ALERTS{{alertname="{ALERT}",link="{link}",alertstate="firing"}}', injected),
                "at Alertmanager": min((m for m in self.moments.updated.get(link, []) if m > injected), default=None),
                "notified": told.received,
            }
            moments = {hop: moment - lost for hop, moment in known.items() if moment is not None}
        stage.scene.faults.heal()
        wrong = sorted(
            {n.component for n in stage.receiver.notifications[since:] if n.name == ALERT and n.component != link}
        )
        return {
            "link": link,
            "percent": percent,
            "load": load,
            "first lost after injection": None if lost is None else lost - injected,
            "moments": moments,
            "also named": wrong,
        }

    def _told(self) -> set[str]:
        """Links that an alert is still kept of."""
        return {labels["link"] for labels, _ in self.stage.monitoring.query(f'ALERTS{{alertname="{ALERT}"}}')}

    def _wait_over(self) -> None:
        """Until no link is suspected any more."""
        query = f"count({SUSPECT}) or vector(0)"
        self.stage.until(lambda: self.stage.scalar(query) == 0, 90 + 5 * self.window, "no link is suspected")
        time.sleep(self.window / 2)

    def _first_lost(self, paths: Iterable[str], since: float) -> float | None:
        """When the first probe was sent, on any of these paths, that had no answer."""
        flows = {_flow(each) for each in self.stage.scene.plans["underlay"].targets if each.path in set(paths)}
        pages = self.stage.scene.exporters.read(f"/v1/probe-records?since={since - 1:.3f}").values()
        lost = [
            int(row["ping_time"]) / 1e9
            for page in pages
            for row in csv.DictReader(page.decode().splitlines())
            if row["dial"] == "fail"
            and row["task_type"] != "TRACEROUTE"
            and row["src_port"]
            and (row["src_ip"], row["dst_ip"], int(row["src_port"])) in flows
        ]
        return min((moment for moment in lost if moment >= since - 0.05), default=None)

    def _scraped(self, paths: set[str], since: float) -> float | None:
        """The time of the first sample in which a path's losses have grown."""
        grown = [
            moments[number][0]
            for labels, moments in self._samples("fabric_path_probes_lost_total", since - 2 * self.scrape)
            if labels["path"] in paths
            for number in range(1, len(moments))
            if moments[number][0] > since and moments[number][1] > moments[number - 1][1]
        ]
        return min(grown, default=None)

    def _first(self, selector: str, since: float) -> float | None:
        moments = [moment for _, values in self._samples(selector, since) for moment, _ in values if moment > since]
        return min(moments, default=None)

    def _samples(self, selector: str, since: float) -> list[tuple[Labels, list[tuple[float, float]]]]:
        """The samples themselves since a moment, with the times at which they were scraped or evaluated."""
        seconds = int(time.time() - since) + 2
        url = f"http://127.0.0.1:{PROMETHEUS_PORT}/api/v1/query?{urlencode({'query': f'{selector}[{seconds}s]'})}"
        with urlopen(url, timeout=30) as answer:
            result = json.load(answer)["data"]["result"]
        return [(each["metric"], [(float(t), float(value)) for t, value in each["values"]]) for each in result]


def _flow(target: Target) -> tuple[str, str, int]:
    return target.source_address, target.destination_address, target.source_ports[0]


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.alerts.latency", description=__doc__)
    parser.add_argument("--profile", choices=sorted(PROFILES), required=True)
    parser.add_argument("--faults", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(words)
    latency = Latency(arguments.profile, arguments.seed, arguments.output, Narrator())
    try:
        told = latency.measure(arguments.faults)
        (arguments.output / "report.json").write_text(json.dumps(told, indent=2) + "\n")
    except LabError as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    finally:
        latency.stage.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
