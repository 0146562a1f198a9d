"""One case: diagnosed, judged, and put to the simpler methods as well."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pyarrow.compute as pc

from benchmarks.diagnosis.judge import Answer, Judgement, judge
from benchmarks.diagnosis.observed import observe, path_hours
from benchmarks.diagnosis.rivals import RIVALS, blame, in_links
from exporter.contracts.codec import encode, write
from exporter.contracts.diagnosis import Diagnosis
from exporter.contracts.fabric import Fabric
from exporter.contracts.names import port_id
from lab.simulator.failures import Case
from skeleton_service.diagnosis import diagnose

OURS = "diagnose"
_ROUNDING_SECONDS = 1e-5
_LINK_LIKE = ("link", "port", "rnic")
_LOSSES = ("loss", "unreachable", "flap")


@dataclass(frozen=True, slots=True)
class Run:
    name: str
    seed: int
    judgement: Judgement
    alike: dict[str, Judgement]
    """Of ``diagnose`` and of the simpler methods, all as of who can name links alone."""
    link_loss: bool
    """All that is true is loss of a link, a port or an RNIC: what the simpler methods are made for."""
    path_hours: float
    rows: int
    seconds: float
    """Of ``diagnose``."""
    in_time: tuple[bool, ...] = ()
    """Of the failures found, when replayed: whether the records until their detection tell of them as well."""

    @property
    def flawed(self) -> bool:
        """Whether something was missed, named wrong, or made up."""
        found = self.judgement.found
        return bool(self.judgement.false) or any(one is None or one.answer is Answer.WRONG for one in found)


def run(case: Case, *, replay: bool = False) -> tuple[Run, Diagnosis]:
    """Diagnose a case and judge what was reported of it."""
    fabric = Fabric(case.topology)
    began = time.perf_counter()
    reported = _diagnosed(case, fabric)
    seconds = time.perf_counter() - began
    rnics = {end.id: port_id(end.host, end.rnic) for end in case.skeleton.endpoints}
    truth = on_rnics(case.truth, rnics)
    judgement = judge(truth, on_rnics(reported, rnics), case.end)
    observations = observe(case.probes, fabric)
    said = {OURS: reported} | {rival: blame(observations, method) for rival, method in RIVALS.items()}
    lenient = in_links(truth, fabric)
    judged = Run(
        name=case.name,
        seed=case.seed,
        judgement=judgement,
        alike={method: judge(lenient, on_rnics(own, rnics), case.end) for method, own in said.items()},
        link_loss=all(
            failure.component.kind in _LINK_LIKE and failure.symptom in _LOSSES for failure in case.truth.failures
        ),
        path_hours=path_hours(case.probes),
        rows=case.probes.num_rows,
        seconds=seconds,
        in_time=tuple(
            _known_by(truth.failures[number].start + found.seconds, number, case, truth, rnics)
            for number, found in enumerate(judgement.found if replay else ())
            if found is not None
        ),
    )
    return judged, reported


def _diagnosed(case: Case, fabric: Fabric) -> Diagnosis:
    return diagnose(case.probes, fabric, case.skeleton, counters=case.counters, overlay=case.overlay)


def _known_by(moment: float, number: int, case: Case, truth: Diagnosis, rnics: Mapping[str, str]) -> bool:
    """Whether a true failure is reported from what was recorded until a moment."""
    early = until(case, moment + _ROUNDING_SECONDS)
    reported = on_rnics(_diagnosed(early, Fabric(case.topology)), rnics)
    return judge(truth, reported, moment).found[number] is not None


def until(case: Case, moment: float) -> Case:
    """A case whose records end at a moment, in seconds since the epoch; tables are as they are."""
    probes = case.probes.filter(pc.less_equal(case.probes["ping_time"], int(moment * 1e9)))
    counters = None if case.counters is None else case.counters.filter(pc.less_equal(case.counters["time"], moment))
    return replace(case, probes=probes, counters=counters, end=moment)


def on_rnics(diagnosis: Diagnosis, rnics: Mapping[str, str]) -> Diagnosis:
    """With paths between RNICs (``host:rnic``): agents on a host may know no container, and name the host instead.

    ``rnics`` has those of the job's endpoints.
    """

    def rnic(endpoint: str) -> str:
        return rnics.get(endpoint) or endpoint.replace("/", ":")

    failures = (
        msgspec.structs.replace(failure, paths=tuple((rnic(near), rnic(far)) for near, far in failure.paths))
        for failure in diagnosis.failures
    )
    return msgspec.structs.replace(diagnosis, failures=tuple(failures))


def keep(directory: Path, case: Case, reported: Diagnosis, judgement: Judgement) -> None:
    """Write the files of a case, what is true among them, what was said of it, and what of that is right."""
    case.write(directory)
    write(directory / "diagnosis.json", encode(reported))
    write(directory / "judgement.json", encode(judgement))
