"""Rules stay while their jobs run, whatever goes wrong with others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import pytest

from skeleton_service.live import rulekeeper
from skeleton_service.live.errors import BrokenError
from skeleton_service.live.kubernetes import RefusedError
from skeleton_service.live.rulekeeper import Held, RuleKeeper


class Store:
    """{name: job}, which refuses or breaks for some jobs."""

    def __init__(self) -> None:
        self.there: dict[str, str] = {}
        self.fails: dict[str, Exception] = {}
        self.puts: list[str] = []
        self.stays: set[str] = set()
        """Names that cannot be taken away."""
        self.unknown: tuple[str, ...] = ()
        self.problem = ""

    def belongs(self, _: str) -> object:
        return ()

    async def put(self, job: str, files: Mapping[str, str]) -> Sequence[str]:
        self.puts.append(job)
        if job in self.fails:
            raise self.fails[job]
        self.there |= dict.fromkeys(files, job)
        return tuple(files)

    async def remove(self, names: Sequence[str]) -> None:
        for name in names:
            if name in self.stays:
                raise RefusedError(f"{name} stays", 403)
            self.there.pop(name, None)

    async def held(self) -> Held:
        told = {name: job for name, job in self.there.items() if not name.startswith(self.unknown)}
        return Held(told, self.unknown, self.problem)

    async def settle(self) -> None: ...

    async def text(self, _: Sequence[str]) -> str:
        return ""


async def rendering(job: str, _: bytes | None) -> Mapping[str, str]:
    return {f"{job}.yaml": job}


@pytest.fixture
def store() -> Store:
    return Store()


def keeper(store: Store, unsure: Callable[[str], bool] = lambda _: False) -> RuleKeeper:
    return RuleKeeper(None, store, rendering, 0, unsure)  # type: ignore[arg-type]


def test_rules_of_an_earlier_process_stay_until_their_jobs_have_surely_ended(store: Store) -> None:
    store.there = {f"{job}.yaml": job for job in ("young", "refused", "hidden", "ended")}
    store.fails = {"refused": RefusedError("no", 403)}
    asyncio.run(keeper(store, lambda job: job == "hidden").keep({"refused": None}, {"refused", "young"}))
    assert set(store.there) == {"young.yaml", "refused.yaml", "hidden.yaml"}


def test_a_clock_that_is_set_back_takes_no_rules_away(store: Store) -> None:
    kept = keeper(store)
    asyncio.run(kept.keep({"a": None}, {"a"}))
    asyncio.run(kept.keep({}, {"a"}))
    assert set(store.there) == {"a.yaml"}
    asyncio.run(kept.keep({}, set()))
    assert store.there == {}


def test_what_breaks_for_one_is_tried_again_later_and_stops_no_other(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rulekeeper, "_FIRST_PAUSE", 0.2)
    store.fails = {"b": BrokenError("its namespace says 500")}
    kept = keeper(store)

    async def story() -> None:
        for _ in range(3):
            await kept.keep(dict.fromkeys("abc"), set("abc"))
        assert (store.puts, kept.refused) == (["a", "b", "c"], 1)
        await asyncio.sleep(0.25)
        store.fails = {}
        await kept.keep(dict.fromkeys("abc"), set("abc"))
        assert (set(store.there), kept.refused) == ({"a.yaml", "b.yaml", "c.yaml"}, 0)

    asyncio.run(story())


def test_where_nothing_can_be_put_it_stops_after_a_few(store: Store) -> None:
    jobs = [f"job-{number}" for number in range(20)]
    store.fails = dict.fromkeys(jobs, BrokenError("the API server cannot be asked"))
    kept = keeper(store)
    asyncio.run(kept.keep(dict.fromkeys(jobs), jobs))
    assert len(store.puts) == 3
    assert kept.refused >= 1


def test_what_a_sweep_left_undone_is_told_until_one_did_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.problem = "namespace b: the API server says 403"
    kept = keeper(store)
    for _ in range(2):
        asyncio.run(kept.keep({"a": None}, {"a"}))
        assert kept.refused == 1
    store.problem = ""
    monkeypatch.setattr(rulekeeper, "_SWEEP_SECONDS", 0.0)
    asyncio.run(kept.keep({"a": None}, {"a"}))
    assert kept.refused == 0


def test_what_may_not_be_taken_away_keeps_nothing_else_there(store: Store) -> None:
    store.there = {f"{job}.yaml": job for job in "abc"}
    store.stays = {"b.yaml"}
    kept = keeper(store)
    asyncio.run(kept.keep({}))
    assert set(store.there) == {"b.yaml"}
    assert kept.refused == 1


def test_of_a_job_that_runs_goes_what_holds_its_rules_no_more(store: Store) -> None:
    store.there = {"a-before.yaml": "a"}
    asyncio.run(keeper(store).keep({"a": None}, {"a"}))
    assert set(store.there) == {"a.yaml"}


def test_rules_that_are_lost_are_put_again_and_those_that_nobody_could_look_for_are_not(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rulekeeper, "_SWEEP_SECONDS", 0.0)
    kept = keeper(store)
    jobs = dict.fromkeys("ab")
    asyncio.run(kept.keep(jobs, jobs))
    store.there, store.unknown, store.puts = {}, ("b",), []
    for _ in range(2):  # the first finds out
        asyncio.run(kept.keep(jobs, jobs))
    assert store.puts == ["a"]
