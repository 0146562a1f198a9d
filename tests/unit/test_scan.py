"""When losses raise an alarm: what chance does is let pass, what it hardly does is not."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.contracts.fabric import Fabric
from skeleton_service.diagnosis.counts import Counts
from skeleton_service.diagnosis.geometry import Geometry
from skeleton_service.diagnosis.observations import Flow, Path
from skeleton_service.diagnosis.paths import PathIndex
from skeleton_service.diagnosis.scan import Alarm, Background, Members, scan, threshold
from tests.unit.fabrics import leaf_spine

START = 1_700_000_000
SIDE = 10
FABRIC = Fabric(leaf_spine(pods=2, rails=1, spines=1, hosts_per_pod=SIDE))
PATHS = 2 * SIDE * SIDE
SECONDS = 1000


def path(source: int, destination: int, pod: int) -> Path:
    hosts = f"host-p{pod}-{source}", f"host-p{1 - pod}-{destination}"
    flow = Flow(f"{hosts[0]}:mlx5_0", f"{hosts[1]}:mlx5_0", 49152, 65300, False, False)
    return Path(flow, "UDP_PING", None, (f"c-{hosts[0]}", f"c-{hosts[1]}"), None, "job")


class Stream:
    """From each host to each of the other pod, probed once a second, second after second.

    Paths 0 to 9 are of one host, and so on; those from 100 on go the other way.
    """

    def __init__(self) -> None:
        index = PathIndex(Geometry(FABRIC))
        index.add(path(a, b, pod) for pod in range(2) for a in range(SIDE) for b in range(SIDE))
        self.counts, self.members, self.background = Counts(), Members(index), Background()
        self.paths = len(index)
        self.counts.grow(self.paths)
        self.chosen = np.ones(self.paths, bool)
        self.second = START

    def add(self, lost: np.ndarray, sent: int = 1) -> None:
        self.second += 1
        every = np.arange(self.paths)
        no = np.zeros(self.paths, bool)
        time = np.full(self.paths, float(self.second))
        self.counts.add(self.second, every, time, np.full(self.paths, sent), lost.astype(np.int64), no, no)
        self.background.add(float(self.chosen.sum() * sent), float(lost[self.chosen].sum()))

    def alarm(self) -> Alarm | None:
        """What is beyond doubt."""
        found = scan(self.counts, self.second, self.members, self.chosen, self.background.ratio)
        least = threshold(len(self.members), int(self.chosen.sum()))
        return found if found is not None and found.gain >= least else None

    def lose(self, *paths: int, sent: int = 1) -> None:
        lost = np.zeros(self.paths)
        lost[list(paths)] = 1
        self.add(lost, sent)

    def suspected(self) -> set[int]:
        """Paths of the component that an alarm is of."""
        alarm = self.alarm()
        assert alarm is not None
        return set(self.members.paths(alarm.member).tolist())


OF_HOST_4 = {*range(40, 50), *range(104, 200, 10)}


@pytest.mark.parametrize("ratio", [1e-5, 1e-4, 1e-3])
def test_losses_by_chance_raise_no_alarm(ratio: float) -> None:
    """55 path-hours at each ratio; an alarm is allowed in 30,000."""
    random = np.random.default_rng(int(ratio * 1e6))
    stream = Stream()
    for _ in range(SECONDS):
        lost = random.random(PATHS) < ratio
        stream.add(lost)
        if lost.any():  # no alarm is ever raised by a second that lost nothing
            assert stream.alarm() is None


@pytest.mark.parametrize("ratio", [1e-5, 1e-4])
def test_three_losses_in_a_row_on_one_path_are_an_alarm_of_that_path(ratio: float) -> None:
    random = np.random.default_rng(1)
    stream = Stream()
    for _ in range(150):
        stream.add((random.random(PATHS) < ratio) & (np.arange(PATHS) // 10 != 7))
    for _ in range(2):
        stream.lose(77)
        assert stream.alarm() is None
    stream.lose(77)
    alarm = stream.alarm()
    assert alarm is not None
    assert stream.suspected() == {77, 177}, "what is between its two ends, there and back"
    assert alarm.first == stream.second - 2


def test_one_loss_each_of_four_paths_of_a_host_is_an_alarm_of_what_they_share() -> None:
    stream = Stream()
    for _ in range(20):
        stream.lose()
    stream.lose(40, 42, 47, 104)
    assert stream.suspected() == OF_HOST_4


def test_three_losses_far_apart_are_none() -> None:
    stream = Stream()
    for _ in range(3):
        for _ in range(35):
            stream.lose()
        stream.lose(77)
        assert stream.alarm() is None


def test_the_same_losses_among_many_probes_are_none() -> None:
    """Three lost of thirty are a failure, three of thirty thousand are not."""
    few, many = Stream(), Stream()
    for _ in range(3):
        few.lose(*range(1))
        many.lose(*range(1), sent=1_000)
    assert few.alarm() is not None
    assert many.alarm() is None


def test_paths_that_are_not_chosen_raise_nothing() -> None:
    stream = Stream()
    stream.chosen[:10] = False
    for _ in range(5):
        stream.lose(*range(10))
    assert stream.alarm() is None
    stream.lose(40, 41, 42, 43)
    assert stream.suspected() == OF_HOST_4


def test_a_slow_leak_is_an_alarm_in_the_end() -> None:
    """A tenth of the probes of ten paths: no second has anything to show."""
    random = np.random.default_rng(3)
    stream = Stream()
    alarms = []
    for _ in range(120):
        stream.add((random.random(PATHS) < 0.02) & (np.arange(PATHS) < 10))
        alarms.append(stream.alarm())
    told = [alarm for alarm in alarms if alarm is not None]
    assert told
    own = set(stream.members.paths(told[-1].member).tolist())
    assert own == {*range(10), *range(100, 200, 10)}
    assert stream.second - told[-1].first > 20


def test_the_background_is_learnt_and_stays_within_bounds() -> None:
    background = Background()
    guess = background.ratio
    background.add(1e7, 5e3)
    assert background.ratio == pytest.approx(5e-4, rel=0.05)
    background.add(1e9, 0)
    assert 0 < background.ratio < guess
    background.add(1e9, 1e9)
    assert background.ratio < 0.05, "a fabric that loses everything has no background"


def test_more_components_and_fewer_paths_need_more_proof() -> None:
    assert threshold(1000, 100) > threshold(10, 100)
    assert threshold(100, 10) > threshold(100, 1000)
