"""Counts of a job's paths, by link and by RNIC."""

from __future__ import annotations

import msgspec

from exporter.contracts.catalogue import PATH, PATH_LINK_INFO
from exporter.exposition import Series
from exporter.jobcounts import JobEnds, JobLinks, classes
from exporter.store import Store
from tests.unit.test_plan_contract import PLAN, TARGET

HIDDEN = ("0",) * len(PATH.hidden_labels)


def told(series: Series) -> dict[tuple[str, ...], float]:
    return {tuple(labels): value for labels, value in series.samples}


def test_a_plan_tells_the_job_and_class_of_its_paths() -> None:
    lossy = msgspec.structs.replace(TARGET, path="lossy", probe="rdma", traffic_class=2)
    known = classes(msgspec.structs.replace(PLAN, targets=(TARGET, lossy)))
    assert known == {TARGET.path: ("j", TARGET.probe, "26"), "lossy": ("j", "rdma", "0")}
    assert classes(None) == {}


def test_paths_are_counted_at_both_ends_while_they_are_probed() -> None:
    store, ends = Store([(PATH, 4)]), JobEnds()
    writer = store.writer(PATH)
    writer.add(("p", "h1", "r0", "h2", "r1", "udp", *HIDDEN))
    second = writer.add(("q", "h1", "r0", "h3", "r0", "rdma", *HIDDEN))
    writer.add(("nobody's", "h1", "r0", "h3", "r0", "udp", *HIDDEN))
    assert told(ends.series(store)[0]) == {}
    ends.follow({"p": ("j", "udp", "26"), "q": ("j", "rdma", "26"), "waiting": ("j", "udp", "26")})
    (first,) = ends.series(store)
    assert told(first) == {
        ("j", "source", "h1", "r0", "26"): 2,
        ("j", "destination", "h2", "r1", "26"): 1,
        ("j", "destination", "h3", "r0", "26"): 1,
    }
    assert ends.series(store)[0] is first, "renderers keep what they made of it"
    writer.remove(second)
    assert told(ends.series(store)[0])["j", "source", "h1", "r0", "26"] == 1


def test_links_have_the_sum_of_the_shares_of_paths_by_job_and_class() -> None:
    samples = [
        (("p", "l1"), 1.0),
        (("q", "l1"), 1.0),
        (("q", "l2"), 0.25),
        (("o", "l1"), 1.0),
        (("nobody's", "l1"), 1.0),
    ]
    links, own, overlay = Series(PATH_LINK_INFO, samples), {"p": ("j", "udp", "26"), "q": ("j", "udp", "26")}, {}
    counts = JobLinks()
    paths, variance = counts.series(links, own, overlay)
    assert told(paths) == {("j", "udp", "26", "l1"): 2, ("j", "udp", "26", "l2"): 0.25}
    assert told(variance) == {("j", "udp", "26", "l2"): 0.25 - 0.0625}
    assert counts.series(links, own, overlay)[0] is paths, "renderers keep what they made of it"
    paths, _ = counts.series(links, own, {"o": ("k", "mtu", "0")})
    assert told(paths)["k", "mtu", "0", "l1"] == 1
    paths, _ = counts.series(Series(PATH_LINK_INFO, samples[:1]), own, overlay)
    assert told(paths) == {("j", "udp", "26", "l1"): 1}
