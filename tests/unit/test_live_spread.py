"""Inference on Dask's workers: the same skeletons as the service's own, and what a cluster that breaks does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.spread import Running, document
from exporter.contracts.codec import ContractError
from exporter.contracts.fabric import Fabric
from lab.simulator import CASES, Simulation, simulate
from skeleton_service.live.errors import BrokenError
from skeleton_service.live.inferring import Traffic, inferred
from skeleton_service.live.settings import Dask

pytest.importorskip("distributed", reason="Dask is not installed (extra dask)")

from skeleton_service.live.spread import Spread


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return simulate(CASES["1f1b"], 50_001, hosts=9, seconds=600)


@pytest.fixture
def dask() -> Iterator[Running]:
    with Running() as running:
        running.worker()
        yield running


def told(simulation: Simulation, directory: Path) -> tuple[bytes, Traffic]:
    from pyarrow import parquet

    parquet.write_table(simulation.table(), directory / "traffic.parquet")
    return document(simulation.truth, simulation.truth.job), Traffic((str(directory / "traffic.parquet"),))


async def asked(address: str, simulation: Simulation, *jobs: Any) -> list[Any]:
    spread = Spread(Dask(scheduler=address), msgspec.msgpack.encode(simulation.topology))
    try:
        return await asyncio.gather(*(spread.infer(*job, None) for job in jobs), return_exceptions=True)
    finally:
        await spread.close()


def test_a_skeleton_is_that_of_the_services_own_process(dask: Running, simulation: Simulation, tmp_path: Path) -> None:
    job = told(simulation, tmp_path)
    (found,) = asyncio.run(asked(dask.address, simulation, job))
    assert found == inferred(Fabric(simulation.topology), *job, None)
    wrong = (job[0], Traffic((str(tmp_path / "absent.parquet"),)))
    found, refused = asyncio.run(asked(dask.address, simulation, job, wrong))
    assert isinstance(found, bytes)
    assert isinstance(refused, ContractError)
    assert "absent.parquet" in str(refused)


def test_workers_and_schedulers_come_and_go(dask: Running, simulation: Simulation, tmp_path: Path) -> None:
    job = told(simulation, tmp_path)

    async def story() -> None:
        spread = Spread(Dask(scheduler=dask.address), msgspec.msgpack.encode(simulation.topology))
        first = await spread.infer(*job, None)
        dask.end_workers()
        dask.worker()  # begins with what the scheduler was told
        assert await spread.infer(*job, None) == first
        dask.end()
        with pytest.raises(BrokenError, match="Dask at"):
            await spread.infer(*job, None)
        dask.scheduler()
        dask.worker()  # of a scheduler that was told nothing
        for _ in range(30):
            try:
                assert await spread.infer(*job, None) == first
                break
            except BrokenError:
                await asyncio.sleep(1)
        else:
            pytest.fail("it did not come back")
        await spread.close()

    asyncio.run(story())
