"""A scene under watch: Prometheus with the whole rule pack, Alertmanager as shipped, and who is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lab.demo.monitoring import RECEIVER_PORT, Monitoring
from lab.demo.notifications import Receiver
from lab.errors import LabError
from lab.narrator import Narrator
from lab.network import design as drawn
from lab.network import transit
from lab.scenarios.scene import Scene
from skeleton_service.ruleset import Thresholds, job_rules, static_rules, timing

FAST = Thresholds(scrape_interval="1s", poll_interval="2s", window="8s", for_="3s", keep_firing_for="4s")
"""The profile of a fabric that wants to know within seconds."""
SCRAPED_TIMEOUT = 60.0
TRACED_TIMEOUT = 90.0
QUIET_TIMEOUT = 90.0
_TRACED = "count(count by (path) (fabric_path_link_info))"


class WatchedScene:
    """A scene, and beside it Prometheus with the whole rule pack, Alertmanager as shipped, and who is told."""

    def __init__(
        self,
        lab: Mapping[str, Any],
        seed: int,
        directory: Path,
        narrator: Narrator,
        thresholds: Thresholds = FAST,
        *,
        as_shipped: bool = False,
        in_containers: bool = True,
    ) -> None:
        options = dict(lab)
        with_transit = options.pop("transit", False)
        design = drawn.draw(seed, **options)
        self.narrator = narrator
        self.in_containers = in_containers
        self.thresholds = thresholds
        poll = float(timing(thresholds).poll_interval.removesuffix("s"))
        self.scene = Scene(directory, seed, transit.add(design) if with_transit else design, poll)
        interval = thresholds.scrape_interval
        self.monitoring = Monitoring(
            self.scene.lab, directory / "monitoring", scrape_interval=interval, as_shipped=as_shipped
        )
        self.receiver = Receiver(RECEIVER_PORT)

    def begin(self) -> None:
        """Bring it all up; return when every path is traced and every exporter scraped."""
        scene, thresholds = self.scene, self.thresholds
        with self.narrator.step("fabric up") as step:
            scene.raise_lab()
            step.detail = f"{len(scene.design.hosts)} hosts, {len(scene.design.switches)} switches, seed {scene.seed}"
        with self.narrator.step("measuring") as step:
            scene.start(in_containers=self.in_containers)
            targets = dict(scene.exporters.targets())
            if self.in_containers:
                scene.sidecars.relay()
                targets |= scene.sidecars.targets()
            rules = {**static_rules(thresholds), **job_rules(scene.job.name, thresholds, skeleton=scene.skeleton)}
            self.monitoring.start(targets, rules)
            self.until(lambda: self.scalar("count(up == 1)") == len(targets), SCRAPED_TIMEOUT, "all exporters scraped")
            # One trace a flow, and a container sees none of the switches below its overlay.
            plan = scene.plans["underlay"].targets
            wanted = len({(t.source_address, t.source_ports[0]) for t in plan if t.probe != "tcp"})
            self.until(lambda: self.scalar(_TRACED) >= 0.9 * wanted, TRACED_TIMEOUT, f"{wanted} flows traced", _TRACED)
            loaded = self.monitoring.loaded_rules()
            if broken := [name for name, health in loaded.items() if health == "err"]:
                raise LabError(f"Prometheus cannot evaluate {', '.join(broken)}")
            paths = sum(len(plan.targets) for plan in scene.plans.values())
            step.detail = f"{len(targets)} exporters, {paths} paths, {len(loaded)} rules"

    def wait_quiet(self, seconds: float, timeout: float = QUIET_TIMEOUT) -> None:
        """Return when nothing has fired or waited to fire for ``seconds``; raise LabError after ``timeout`` more."""
        since, deadline = time.monotonic(), time.monotonic() + seconds + timeout
        while (now := time.monotonic()) < since + seconds:
            self.check_daemons()
            if alerts := self.monitoring.alerts():
                since = now
                said = ", ".join(sorted({f"{each['alertname']} ({state})" for each, state in alerts}))
                self.narrator.progress(said)
                if now > deadline:
                    raise LabError(f"the lab is not quiet {timeout:g} s after it could be: {said}")
            time.sleep(0.5)

    def firing(self) -> list[dict[str, str]]:
        return self.monitoring.firing()

    def scalar(self, query: str) -> float:
        result = self.monitoring.query(query)
        return result[0][1] if result else 0.0

    def until(self, condition: Callable[[], bool], timeout: float, what: str, query: str | None = None) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            self.check_daemons()
            if time.monotonic() > deadline:
                detail = f" ({query} = {self.scalar(query):g})" if query else ""
                raise LabError(f"not within {timeout:.0f} s: {what}{detail}")
            time.sleep(0.5)

    def check_daemons(self) -> None:
        for name, code in self.scene.lab.dead_daemons().items():
            raise LabError(f"{name} ended with code {code}", f"see {self.scene.lab.log(name)}")

    def close(self) -> None:
        self.receiver.close()
        self.scene.lab.down()
