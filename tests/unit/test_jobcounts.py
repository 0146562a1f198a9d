"""Counts of a job's paths, by link and by RNIC."""

from __future__ import annotations

from exporter.contracts.catalogue import PATH, PATH_LINK_INFO
from exporter.exposition import Series
from exporter.jobcounts import JobEnds, JobLinks
from exporter.planfile import JobPath
from exporter.store import Store

HIDDEN = ("0",) * len(PATH.hidden_labels)


def told(series: Series) -> dict[tuple[str, ...], float]:
    return {tuple(labels): value for labels, value in series.samples}


def of(job: str, probe: str = "udp", dscp: str = "26") -> JobPath:
    return JobPath(job, "dp", probe, dscp)


def test_paths_are_counted_at_both_ends_while_they_are_probed() -> None:
    store, ends = Store([(PATH, 4)]), JobEnds()
    writer = store.writer(PATH)
    writer.add(("p", "h1", "r0", "h2", "r1", "udp", *HIDDEN))
    second = writer.add(("q", "h1", "r0", "h3", "r0", "rdma", *HIDDEN))
    writer.add(("nobody's", "h1", "r0", "h3", "r0", "udp", *HIDDEN))
    assert told(ends.series(store)[0]) == {}
    ends.follow({"p": (of("j"),), "q": (of("j", "rdma"),), "waiting": (of("j"),)})
    (first,) = ends.series(store)
    assert told(first) == {
        ("j", "source", "h1", "r0", "26"): 2,
        ("j", "destination", "h2", "r1", "26"): 1,
        ("j", "destination", "h3", "r0", "26"): 1,
    }
    assert ends.series(store)[0] is first, "renderers keep what they made of it"
    writer.remove(second)
    assert told(ends.series(store)[0])["j", "source", "h1", "r0", "26"] == 1
    ends.follow({"p": (of("j"), of("k"))})
    both = told(ends.series(store)[0])
    assert both["j", "source", "h1", "r0", "26"] == both["k", "source", "h1", "r0", "26"] == 1


def test_links_have_the_sum_of_the_shares_of_paths_by_job_and_class() -> None:
    samples = [
        (("p", "l1"), 1.0),
        (("q", "l1"), 1.0),
        (("q", "l2"), 0.25),
        (("o", "l1"), 1.0),
        (("nobody's", "l1"), 1.0),
    ]
    links, own, overlay = Series(PATH_LINK_INFO, samples), {"p": (of("j"),), "q": (of("j"), of("i"))}, {}
    counts = JobLinks()
    paths, variance = counts.series(links, own, overlay)
    assert told(paths) == {
        ("j", "udp", "26", "l1"): 2,
        ("j", "udp", "26", "l2"): 0.25,
        ("i", "udp", "26", "l1"): 1,
        ("i", "udp", "26", "l2"): 0.25,
    }
    assert told(variance) == {(job, "udp", "26", "l2"): 0.25 - 0.0625 for job in ("i", "j")}
    assert counts.series(links, own, overlay)[0] is paths, "renderers keep what they made of it"
    paths, _ = counts.series(links, own, {"o": (of("k", "mtu", "0"),)})
    assert told(paths)["k", "mtu", "0", "l1"] == 1
    paths, _ = counts.series(Series(PATH_LINK_INFO, samples[:1]), own, overlay)
    assert told(paths) == {("j", "udp", "26", "l1"): 1}
