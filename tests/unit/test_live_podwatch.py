"""What a watch of pods does when the API server misbehaves: against a cluster that says what a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from exporter.contracts.fabric import Fabric
from exporter.contracts.job import Job
from skeleton_service.jobs import pods
from skeleton_service.live import podwatch
from skeleton_service.live.errors import BrokenError
from skeleton_service.live.kubernetes import RefusedError
from skeleton_service.live.podwatch import PodWatch
from tests.unit.test_pods import HOSTS, TOPOLOGY, pod

FABRIC = Fabric(TOPOLOGY)
Said = Callable[[Mapping[str, str]], Awaitable[Sequence[bytes]]]


class Scripted:
    """Lists what ``pods`` holds; watches say what ``said`` returns, and then end."""

    def __init__(self, *listed: dict[str, Any]) -> None:
        self.pods = list(listed)
        self.lists = self.watches = 0
        self.refuses: Exception | None = None
        self.said: Said = self.quiet

    @staticmethod
    async def quiet(_: Mapping[str, str]) -> Sequence[bytes]:
        await asyncio.sleep(3600)
        return []

    async def get(self, path: str, parameters: Mapping[str, str], accept: str = "") -> bytes:
        assert (path, accept) == ("/api/v1/pods", "")
        self.lists += 1
        if self.refuses is not None:
            raise self.refuses
        mine = self.pods if parameters["labelSelector"].startswith("training") else []
        return msgspec.json.encode({"items": mine, "metadata": {"resourceVersion": "7"}})

    @asynccontextmanager
    async def lines(self, path: str, parameters: Mapping[str, str]) -> AsyncIterator[AsyncIterator[bytes]]:
        assert path == "/api/v1/pods"
        self.watches += 1
        said = self.said if parameters["labelSelector"].startswith("training") else self.quiet

        async def told() -> AsyncIterator[bytes]:
            for line in await said(parameters):
                yield line

        yield told()


async def making(key: pods.Key, members: Sequence[pods.Pod]) -> Job | None:
    return pods.job_of(key, members, FABRIC)


def member(name: str, host: str = HOSTS[0], job: str = "ember") -> dict[str, Any]:
    return pod(name, host, {"training.kubeflow.org/job-name": job})


def event(kind: str, what: dict[str, Any], version: int = 8) -> bytes:
    metadata = {**what.get("metadata", {}), "resourceVersion": str(version)}
    return msgspec.json.encode({"type": kind, "object": {**what, "metadata": metadata}})


async def running(cluster: Scripted, seconds: float, making: podwatch.Making = making) -> PodWatch:
    watch = PodWatch(cluster, making)  # type: ignore[arg-type]
    tasks = [asyncio.create_task(run()) for run in watch.watches()]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return watch


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podwatch, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(podwatch, "GONE_SECONDS", 0.0)
    monkeypatch.setattr(podwatch, "_FIRST_PAUSE", 0.1)


@pytest.mark.parametrize(
    "said",
    [
        [],
        [event("ERROR", {"kind": "Status", "code": 410, "message": "too old resource version"})],
        [event("ERROR", {"kind": "Status", "code": 504, "message": "Too large resource version"})],
        [b"no JSON"],
    ],
)
def test_a_watch_that_ends_at_once_is_asked_for_ever_more_rarely(said: list[bytes]) -> None:
    cluster = Scripted(member("a"))

    async def ended(_: Mapping[str, str]) -> Sequence[bytes]:
        return said

    cluster.said = ended
    asyncio.run(running(cluster, 2.0))
    assert cluster.watches <= 2 + 10  # 0.1, 0.2, 0.4, 0.8 s and so on, a half more or less; the other two wait
    assert cluster.lists <= 3 + 10
    if any(b"resource version" in line for line in said):
        assert cluster.lists >= 5, "what happened meanwhile is told by a list"


def test_what_cannot_be_read_is_left_out_and_hides_nothing_after_it() -> None:
    cluster = Scripted(member("a"), {"metadata": {"name": 5}})

    async def told(parameters: Mapping[str, str]) -> Sequence[bytes]:
        if parameters["resourceVersion"] == "7":
            odd = {"metadata": {"name": "x", "labels": {"training.kubeflow.org/job-name": ["no", "label"]}}}
            return [event("ADDED", odd), b"", event("ADDED", member("b", HOSTS[1]), 9), event("BOOKMARK", {}, 20)]
        assert parameters["resourceVersion"] == "20"
        return await Scripted.quiet(parameters)

    cluster.said = told

    async def story() -> None:
        watch = await running(cluster, 0.5)
        (job,) = (await watch.look()).jobs.values()
        assert [each.name for each in job.containers] == ["research/a", "research/b"]

    asyncio.run(story())
    assert cluster.lists == 3, "one for each selector"


def test_a_job_is_told_once_all_is_listed_and_none_is_ended_before() -> None:
    cluster = Scripted(member("a"))

    async def story() -> None:
        watch = PodWatch(cluster, making)  # type: ignore[arg-type]
        told = await watch.look()
        assert (told.jobs, told.whole, told.unsure("research.gone")) == ({}, False, True)
        watch = await running(cluster, 0.2)
        told = await watch.look()
        assert (set(told.jobs), told.whole, told.unsure("research.gone")) == ({"research.ember"}, True, False)

    asyncio.run(story())


def test_a_job_that_cannot_be_made_is_not_known_to_have_ended() -> None:
    cluster, broken = Scripted(member("a")), True

    async def fails(key: pods.Key, members: Sequence[pods.Pod]) -> Job | None:
        if broken:
            raise BrokenError("the process that works on it dies")
        return await making(key, members)

    async def story() -> None:
        nonlocal broken
        watch = await running(cluster, 0.2, fails)
        told = await watch.look()
        assert (told.jobs, told.unsure("research.ember"), len(watch.problems)) == ({}, True, 1)
        broken = False
        told = await watch.look()
        assert (set(told.jobs), len(watch.problems)) == ({"research.ember"}, 0)

    asyncio.run(story())


def test_of_two_jobs_of_a_name_the_second_stands_back_until_the_first_has_ended() -> None:
    other = pod("b", HOSTS[1], {"batch.kubernetes.io/job-name": "ember"})
    first = member("a")
    cluster = Scripted(first)

    async def story() -> None:
        watch = await running(cluster, 0.2)
        read = msgspec.convert(other, pods.Pod)
        await watch.look()
        watch.took(read, None)
        told = await watch.look()
        assert [each.name for each in told.jobs["research.ember"].containers] == ["research/a"]
        assert len(watch.problems) == 1
        watch.lost(watch.lean(msgspec.convert(first, pods.Pod)))
        for _ in range(3):
            told = await watch.look()
        assert [each.name for each in told.jobs["research.ember"].containers] == ["research/b"]
        assert len(watch.problems) == 0

    asyncio.run(story())


def test_refused_it_says_so_until_it_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Scripted(member("a"))
    cluster.refuses = RefusedError("/api/v1/pods: the API server says 403: no", 403)

    async def story() -> None:
        watch = PodWatch(cluster, making)  # type: ignore[arg-type]
        tasks = [asyncio.create_task(run()) for run in watch.watches()]
        await asyncio.sleep(0.5)
        assert watch.refused == 3
        cluster.refuses = None
        await asyncio.sleep(2)
        assert watch.refused == 0
        assert (await watch.look()).whole
        for task in tasks:
            task.cancel()

    asyncio.run(story())
    assert [record.message for record in caplog.records].count(
        "pods: /api/v1/pods: the API server says 403: no; jobs stay what they were"
    ) == 3


def test_a_job_that_is_wrong_stays_what_it_was() -> None:
    cluster = Scripted(member("a"))

    async def story() -> None:
        watch = await running(cluster, 0.2)
        before = (await watch.look()).jobs
        watch.took(msgspec.convert(member("b", "elsewhere"), pods.Pod), None)
        told = await watch.look()
        assert told.jobs == before
        assert told.jobs["research.ember"] is before["research.ember"]
        assert len(watch.problems) == 1

    asyncio.run(story())


def test_two_of_a_name_that_come_at_once_are_one_and_a_problem() -> None:
    """As after a start: both are made before either is known. One of them has no RNICs."""
    other = pod("b", HOSTS[1], {"training.kubeflow.org/job-name": "ember", "site/job": "ember"})
    other["spec"]["containers"] = [{}]

    async def story() -> None:
        watch = PodWatch(Scripted(), making, labels=["site/job"])  # type: ignore[arg-type]
        for each in (member("a"), other):
            watch.took(watch.lean(msgspec.convert(each, pods.Pod)), None)
        for _ in range(3):
            told = await watch.look()
        assert [each.name for each in told.jobs["research.ember"].containers] == ["research/a"]
        assert len(watch.problems) == 0

    asyncio.run(story())


def test_a_pod_too_deep_to_be_read_is_left_out() -> None:
    cluster = Scripted(member("a"))
    deep = b'{"metadata":{"name":"x"},"spec":' + b'{"a":' * 2000 + b"1" + b"}" * 2001

    async def told(parameters: Mapping[str, str]) -> Sequence[bytes]:
        if parameters["resourceVersion"] == "7":
            return [b'{"type":"ADDED","object":' + deep + b"}", event("ADDED", member("b", HOSTS[1]), 9)]
        return await Scripted.quiet(parameters)

    cluster.said = told

    async def story() -> None:
        watch = await running(cluster, 1.5)
        (job,) = (await watch.look()).jobs.values()
        assert "research/a" in [each.name for each in job.containers]

    asyncio.run(story())
