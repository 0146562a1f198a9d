"""The main job, told inside the sandbox: packets, skeleton, rules, faults, notifications, healed.

Everything here is the real thing: the kernel forwards, FRR routes, the exporters probe, Prometheus
evaluates the generated rules, Alertmanager notifies. The story only breaks links and compares names.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import yaml

from exporter.contracts.codec import read
from exporter.contracts.diagnosis import Diagnosis
from exporter.contracts.fabric import Fabric
from exporter.contracts.plan import Plan, read_plan
from exporter.contracts.skeleton import read_skeleton
from lab.agents import Exporters
from lab.demo.monitoring import RECEIVER_PORT, SCRAPE_INTERVAL, Monitoring
from lab.demo.notifications import Notification, Receiver
from lab.errors import LabError
from lab.faults import Faults
from lab.jobs.job import Job
from lab.jobs.workloads import SYNTHETIC, draw_workload
from lab.narrator import Narrator
from lab.network.design import Design, draw
from lab.network.fabric import Lab
from lab.sandbox import environment

OBSERVED_SECONDS = 36.0
QUIET_SECONDS = 3.0
WATCHDOG = "FabricWatchdog"  # always told: of no fault
ALERT_TIMEOUT = 45.0
RESOLVE_TIMEOUT = 60.0
FAST_PROFILE = {"scrape_interval": SCRAPE_INTERVAL, "window": "8s", "for": "3s", "keep_firing_for": "4s"}


@dataclass(frozen=True)
class Judged:
    """One injected fault and who was named for it."""

    fault: str
    injected: str
    alert: str
    service: str
    seconds_to_notification: float

    @property
    def right(self) -> bool:
        return self.injected == self.alert == self.service


class Story:
    def __init__(
        self, directory: Path, seed: int, narrator: Narrator, prometheus_url: str = "", workload: str = SYNTHETIC
    ) -> None:
        self.directory = directory
        self.seed = seed
        self.draw = random.Random(seed)
        self.narrator = narrator
        self.design: Design = draw(seed)
        self.lab = Lab(self.design, directory / "lab")
        self.exporters = Exporters(self.lab, directory / "exporters")
        self.monitoring = Monitoring(self.lab, directory / "monitoring", prometheus_url)
        self.faults = Faults(self.design, directory / "lab")
        self.topology = self.design.topology()
        self.workload = draw_workload(workload, seed, self.design)
        self.job: Job = self.workload.job
        self.receiver = Receiver(RECEIVER_PORT)
        self.judged: list[Judged] = []

    def tell(self) -> None:
        """Tell it to the end; raise LabError when a step does not happen."""
        self._raise_fabric()
        self._start_measuring()
        self._watch_job()
        self._infer()
        plan = self._plan()
        self._load_rules(plan)
        links = self._breakable_links(plan)
        if len(links) < 2:
            raise LabError("fewer than two links between leaf and spine can be told apart by this plan", "another seed")
        lossy, short = self.draw.sample(links, 2)
        loss = self.draw.uniform(20, 40)
        self._break(
            "silent loss",
            lossy,
            f"{loss:.0f} % of the packets on {lossy}, both ends up",
            lambda: self.faults.inflict("silent-loss", lossy, loss),
            "FabricLinkLoss",
        )
        port = self.draw.choice(short.split(" -- "))
        self._break(
            "MTU mismatch",
            short,
            f"MTU 1500 on {port}, 9000 around it",
            lambda: self.faults.inflict("port-mtu", port, 1500),
            "FabricLinkMtuMismatch",
        )

    def _raise_fabric(self) -> None:
        with self.narrator.step("fabric up") as step:
            self.lab.up()
            self.lab.wait_converged()
            step.detail = (
                f"{len(self.design.hosts)} hosts, {len(self.design.switches)} switches, "
                f"{len(self.design.links)} links, BGP converged, seed {self.seed}"
            )

    def _start_measuring(self) -> None:
        with self.narrator.step("exporters, Prometheus") as step:
            self.exporters.start(self.job)
            self.lab.daemon("traffic", self.workload.command(self.directory))
            self._until(lambda: self.workload.moving(self.lab.log("traffic")), 90, "the job's first iteration")
            self.traffic_since = time.time()
            self.monitoring.start(self.exporters.targets())
            wanted = len(self.exporters.targets())
            self._until(lambda: len(self.monitoring.query("up == 1")) == wanted, 30, "every exporter is scraped")
            step.detail = f"{wanted} exporters scraped every {SCRAPE_INTERVAL}, job {self.job.name} started"

    def _watch_job(self) -> None:
        with self.narrator.step("job traffic") as step:
            end = self.traffic_since + OBSERVED_SECONDS
            while (left := end - time.time()) > 0:
                self._check_daemons()
                self.narrator.progress(f"watching NIC counters, {left:.0f} s to go")
                time.sleep(min(0.5, left))
            moved = sum(value for _, value in self.monitoring.query("fabric_rnic_transmit_bytes_total"))
            step.detail = (
                f"{self.job.data_parallel} replicas x {self.job.pipeline} stages on {len(self.job.workers)} hosts, "
                f"{moved / 1e9:.1f} GB moved"
            )

    def _infer(self) -> None:
        with self.narrator.step("skeleton inferred") as step:
            file = self.directory / "skeleton.json"
            urls = self.exporters.urls(f"/v1/throughput?since={self.traffic_since + 1:.0f}")
            self._save(urls, "throughput")
            self._service(
                "infer",
                "--throughput",
                *urls,
                "--topology",
                str(self.exporters.topology),
                "--output",
                str(file),
            )
            skeleton = read_skeleton(file)
            true = {frozenset(pair[:2]) for pair in self.job.truth().pairs()}
            inferred = {frozenset(pair[:2]) for pair in skeleton.pairs()}
            missed = len(true - inferred)
            step.detail = (
                f"{len(true)} true pairs, {len(inferred)} inferred, {missed} missed; "
                f"period {skeleton.period_seconds or 0:.1f} s (true {self.job.period_seconds:.1f}), "
                f"confidence {skeleton.confidence:.2f}" + (", fallback to the basic list" if skeleton.fallback else "")
            )
            measured = self.workload.exchanged()
            if measured is not None:
                missed = len(measured.keys() - inferred)
                recall = 1 - missed / max(len(measured), 1)
                step.detail += f"; {len(measured)} pairs measured in the containers, recall {recall:.0%}"
            if missed:
                raise LabError(f"{missed} pairs that exchange traffic are not in the skeleton")

    def _plan(self) -> Plan:
        with self.narrator.step("probe plan") as step:
            staged = self.directory / "plan.json"
            self._service(
                "plan",
                "--skeleton",
                str(self.directory / "skeleton.json"),
                "--topology",
                str(self.exporters.topology),
                "--output",
                str(staged),
            )
            plan = read_plan(staged)
            shutil.copy(staged, self.exporters.plan.with_suffix(".new"))
            self.exporters.plan.with_suffix(".new").replace(self.exporters.plan)  # agents never see half a plan
            pairs = {(target.source, target.destination) for target in plan.targets}
            everyone = len(self.topology.hosts) * len(self.topology.hosts[0].rnics)
            step.detail = f"{len(plan.targets)} paths over {len(pairs)} of {everyone * (everyone - 1)} directed pairs"
        return plan

    def _load_rules(self, plan: Plan) -> None:
        with self.narrator.step("rules checked and loaded") as step:
            thresholds = self.directory / "thresholds.yaml"
            thresholds.write_text(yaml.safe_dump(FAST_PROFILE))
            rules = self.directory / "rules"
            self._service(
                "rules",
                "--skeleton",
                str(self.directory / "skeleton.json"),
                "--topology",
                str(self.exporters.topology),
                "--thresholds",
                str(thresholds),
                "--output",
                str(rules),
            )
            files = sorted(map(str, rules.iterdir()))
            self.lab.run(None, ["promtool", "check", "rules", "--lint=all", "--lint-fatal", *files])
            for file in files:
                shutil.copy(file, self.monitoring.rules)
            self.monitoring.reload()
            traced = plan.targets
            query = "count(count by (path) (fabric_path_link_info))"
            self._until(lambda: self._scalar(query) == len(traced), 30, f"all {len(traced)} paths are traced", query)
            time.sleep(QUIET_SECONDS)
            broken = {name: health for name, health in self.monitoring.loaded_rules().items() if health == "err"}
            if broken:
                raise LabError(f"Prometheus cannot evaluate {', '.join(broken)}")
            if firing := self.monitoring.firing():
                raise LabError(f"alerts fire on a healthy fabric: {firing}")
            count = len(self.monitoring.loaded_rules())
            step.detail = f"{count} rules, promtool content, {len(traced)} paths traced, none firing"

    def _breakable_links(self, plan: Plan) -> list[str]:
        """Spine links that the job's own paths cross and that its probes can tell apart."""
        fabric = Fabric(self.topology)
        spines = {switch.name for switch in self.design.spines}
        ambiguous = {link for group in (plan.coverage.links_ambiguous if plan.coverage else ()) for link in group}
        used: set[str] = set()
        for target in plan.targets:
            if target.role != "basic":
                ends = (
                    f"{target.source_host}:{target.source_rnic}",
                    f"{target.destination_host}:{target.destination_rnic}",
                )
                used |= fabric.possible_links(*ends)
        return sorted(
            link.id
            for link in self.design.links
            if {link.a.node, link.b.node} & spines and link.id in used and link.id not in ambiguous
        )

    def _break(self, fault: str, link: str, description: str, inject: Callable[[], object], alert: str) -> None:
        since = len(self.receiver.notifications)
        with self.narrator.step(f"{fault} injected") as step:
            inject()
            injected = time.time()
            step.detail = description
        with self.narrator.step(f"{fault} notified") as step:
            self.narrator.progress("Prometheus, Alertmanager")
            notification = self.receiver.wait(
                lambda n: n.status == "firing" and n.labels.get("training_job") == self.job.name, ALERT_TIMEOUT, since
            )
            if notification is None:
                raise LabError(f"no notification within {ALERT_TIMEOUT:.0f} s of the {fault}")
            seconds = notification.received - injected
            step.detail = f"{notification.name} names {notification.component}"
        self.narrator.notification(notification)
        with self.narrator.step("service's own verdict") as step:
            verdict = self._diagnose(injected)
            named = [failure.component.name for failure in verdict.failures]
            step.detail = "; ".join(
                f"{failure.symptom} on {failure.component.kind} {failure.component.name} "
                f"(confidence {failure.confidence:.2f})"
                for failure in verdict.failures
            )
        if notification.name != alert:
            raise LabError(f"the notification is {notification.name}, not {alert}")
        with self.narrator.step(f"{fault} healed") as step:
            dropped = next(iter(self.faults.dropped().values()), None)
            self.faults.heal()
            self._await_resolved(notification, since)
            others = {n.name for n in self.receiver.notifications[since:] if n.component != link} - {alert, WATCHDOG}
            step.detail = "resolved" + (f"; the fault had dropped {dropped} packets" if dropped is not None else "")
        wrong = sorted({n.component for n in self.receiver.notifications[since:] if n.name == alert} - {link})
        named_by_alert = ", ".join([notification.component, *wrong]) if wrong else notification.component
        self.judged.append(Judged(fault, link, named_by_alert, ", ".join(named), seconds))
        if others:
            self.narrator.say(f"also notified: {', '.join(sorted(others))}")

    def _await_resolved(self, firing: Notification, since: int) -> None:
        resolved = self.receiver.wait(
            lambda n: n.status == "resolved" and n.labels == firing.labels, RESOLVE_TIMEOUT, since
        )
        if resolved is None:
            raise LabError(f"{firing.name} is not resolved {RESOLVE_TIMEOUT:.0f} s after the repair")

    def _diagnose(self, injected: float) -> Diagnosis:
        file = self.directory / "diagnosis.json"
        urls = self.exporters.urls(f"/v1/probe-records?since={injected:.3f}")
        self._save(urls, "probe-records")
        self._service(
            "diagnose",
            "--probes",
            *urls,
            "--topology",
            str(self.exporters.topology),
            "--skeleton",
            str(self.directory / "skeleton.json"),
            "--output",
            str(file),
        )
        return read(file, Diagnosis)

    def _save(self, urls: Sequence[str], name: str) -> None:
        """Keep what was measured beside the logs, to look into a verdict that went wrong."""
        for number, url in enumerate(urls):
            with urlopen(url, timeout=10) as answer:
                (self.directory / f"{name}-{len(self.judged)}-{number}.csv").write_bytes(answer.read())

    def _service(self, *words: str) -> None:
        argv = [sys.executable, "-m", "skeleton_service.cli", *words]
        done = subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise LabError(f"skeleton-service {words[0]} failed: {done.stderr.strip()}")

    def _scalar(self, query: str) -> float:
        result = self.monitoring.query(query)
        return result[0][1] if result else 0.0

    def _until(self, condition: Callable[[], bool], timeout: float, what: str, shown: str | None = None) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            self._check_daemons()
            if time.monotonic() > deadline:
                detail = f" ({shown} = {self._scalar(shown):g})" if shown else ""
                raise LabError(f"not within {timeout:.0f} s: {what}{detail}")
            time.sleep(0.2)

    def _check_daemons(self) -> None:
        for name, code in self.lab.dead_daemons().items():
            raise LabError(f"{name} ended with code {code}", f"see {self.lab.log(name)}")
