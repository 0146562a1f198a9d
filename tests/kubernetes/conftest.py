"""One cluster for all tests of a session: it takes seconds to begin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kubernetes.cluster import Cluster, programs


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    built = programs()
    if built is None:
        pytest.skip("Kubernetes is not built (scripts/kubernetes)")
    running = Cluster(built, tmp_path_factory.mktemp("cluster"))
    yield running
    running.stop()
