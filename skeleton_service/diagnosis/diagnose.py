"""All of diagnosis, on records that are at hand or as they come."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from exporter.contracts.diagnosis import Diagnosis
from exporter.contracts.fabric import Fabric
from exporter.contracts.overlay import OverlayState
from exporter.contracts.skeleton import Skeleton
from skeleton_service.diagnosis.accusations import of_degradation, of_loss, of_slowdown
from skeleton_service.diagnosis.corroboration import Corroboration
from skeleton_service.diagnosis.counters import Lasting, anomalies, moves_traffic
from skeleton_service.diagnosis.losses import Losses
from skeleton_service.diagnosis.observations import observe
from skeleton_service.diagnosis.overlay import Overlay
from skeleton_service.diagnosis.resolvers import Resolvers
from skeleton_service.diagnosis.verdict import Court, of_refusal, of_resolver

LEAST_LOOKS = 2
"""Windows that must show what may be congestion before tables are asked."""


class Diagnoser:
    """Diagnosis of records that come in pieces. What it keeps is bounded: see ``losses``."""

    def __init__(self, fabric: Fabric, skeleton: Skeleton, *, spraying: bool = False) -> None:
        self.fabric = fabric
        self.job = skeleton.job
        self._losses = Losses(fabric, spraying=spraying)
        self._resolvers = Resolvers()
        self._lasting = Lasting()
        self._newest = 0.0

    def advance(self, records: pa.Table) -> None:
        """Take records that are later, by whole seconds, than those before (columns of ``records.KINDS``).

        Of their DNS queries nothing is taken: these are told of later than others.
        """
        self._losses.advance(observe(records, self.fabric, self.job))
        # A trace has the time at which one asks.
        newest = pc.max(records.filter(pc.not_equal(records["task_type"], "TRACEROUTE"))["ping_time"]).as_py()
        self._newest = max(self._newest, (newest or 0) / 1e9)

    def advance_lookups(self, records: pa.Table) -> None:
        """Take the DNS queries among these records, none of which will be told of as old as they are."""
        self._resolvers.advance(records)

    def diagnosis(
        self, lookups: pa.Table, *, counters: pa.Table | None = None, overlay: OverlayState | None = None
    ) -> Diagnosis:
        """What is broken, or was. Of ``lookups``, which are probe records, the DNS queries count.

        These are later than all that were taken, and more may come. Of ``counters``, the oldest may be missing that
        were there the last time: what they showed lasts until newer ones show that it is over.
        """
        losses = self._losses
        corroboration = Corroboration([], self.fabric)
        if counters is not None:

            def moves(host: str, since: float, until: float) -> bool | None:
                return moves_traffic(counters, self.fabric, host, since, until=until)

            found = self._lasting.update(anomalies(counters, self.fabric), counters)
            corroboration = Corroboration(found, self.fabric, moves)
        tables = None if overlay is None else Overlay(overlay, self.fabric)
        court = Court(self.fabric, self.job, losses.geometry, corroboration, tables)
        accusations = [of_loss(each, losses.index) for each in losses.failures]
        slow = (each for each in losses.slowness.failures if not each.tentative or each.looks >= LEAST_LOOKS)
        accusations += [of_slowdown(each, losses.index) for each in slow]
        accusations += [of_degradation(each, losses.index) for each in losses.degradations.failures]
        refusals = losses.refusals.failures
        failures = court.verdicts(accusations, refusals)
        failures += [failure for refusal in refusals for failure in of_refusal(refusal, losses.index)]
        failures += [of_resolver(each, self.job) for each in self._resolvers.failures(lookups, self._newest)]
        return Diagnosis(version=1, failures=tuple(sorted(failures, key=lambda each: (each.start, each.id))))

    def forget(self, before: float) -> None:
        """Drop failures that ended before a time (seconds since the epoch)."""
        self._resolvers.forget(before)
        losses, slowness, refusals = self._losses, self._losses.slowness, self._losses.refusals
        losses.failures[:] = [each for each in losses.failures if each.end is None or each.end >= before]
        degradations = losses.degradations
        degradations.failures[:] = [each for each in degradations.failures if each.end is None or each.end >= before]
        slowness.failures[:] = [each for each in slowness.failures if each.end is None or each.end >= before]
        refusals.failures[:] = [each for each in refusals.failures if each.end is None or each.end >= before]


def diagnose(
    records: pa.Table,
    fabric: Fabric,
    skeleton: Skeleton,
    *,
    counters: pa.Table | None = None,
    overlay: OverlayState | None = None,
    spraying: bool = False,
) -> Diagnosis:
    """Name what is broken, was broken, and how sure that is."""
    diagnoser = Diagnoser(fabric, skeleton, spraying=spraying)
    diagnoser.advance(records)
    return diagnoser.diagnosis(records, counters=counters, overlay=overlay)
