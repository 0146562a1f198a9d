"""How a path books its probes: each loss once, and on the way back only what is proven."""

from __future__ import annotations

import errno
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.contracts.catalogue import PATH, PATH_LABELS, RTT_TABLE
from exporter.probing import paths
from exporter.probing.loop import Loop
from exporter.probing.packet import Codec
from exporter.probing.paths import Path
from exporter.probing.udp import FlowSocket, UdpProber
from exporter.results import ANSWERED, LOST, REFUSED, RESTARTED, ResultRing
from exporter.store import Store
from tests.unit.test_plan_contract import TARGET


class Booked:
    """A path with the store and the ring it books to."""

    def __init__(self, probe: str = "udp") -> None:
        store = Store([(PATH, 1), (RTT_TABLE, 1)])
        self.row = store.writer(PATH).add(["x"] * (len(PATH_LABELS) + len(PATH.hidden_labels)))
        self.histogram = store.writer(RTT_TABLE).add(["x"] * 4)
        self.results = ResultRing(4096)
        target = TARGET if probe == "udp" else type(TARGET)(**{**_fields(TARGET), "probe": probe})
        self.path = Path(target, 1, self.row, self.histogram, self.results)

    def __getitem__(self, column: int) -> float:
        return self.row.get(column)


def _fields(value: object) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__struct_fields__}  # type: ignore[attr-defined]


EVENTS = st.lists(
    st.sampled_from(["answered", "answered", "lost there", "lost back", "restart", "forget"]), max_size=60
)


@given(EVENTS)
def test_loss_on_the_way_back_is_exactly_what_the_responders_count_proves(events: list[str]) -> None:
    """Proven is a lost reply between two replies of one count; a restart or a forgotten path begins another count."""
    booked = Booked()
    epoch, stream, count = 1, 1, 0
    losses = proven = pending = 0
    heard = False
    for event in events:
        if event in ("restart", "forget"):
            epoch, stream = (epoch + 1, 1) if event == "restart" else (epoch, stream + 1)
            count, pending, heard = 0, 0, False
            continue
        booked.path.book_sent()
        if event != "lost there":
            count += 1
        if event == "answered":
            booked.path.reconcile(count, epoch, stream)
            booked.path.book_answer(10_000, 1)
            proven += pending if heard else 0
            pending, heard = 0, True
        else:
            losses += 1
            booked.path.book_loss(1, 1)
            pending += event == "lost back"
        assert 0 <= booked[paths.LOST_RETURN] <= booked[paths.LOSSES]
        assert booked[paths.LOST_RETURN] == proven
    assert booked[paths.LOSSES] == losses
    assert booked[paths.SENT] == sum(event not in ("restart", "forget") for event in events)


def test_a_restart_of_the_responder_is_counted_and_is_no_loss() -> None:
    booked = Booked()
    for answered, epoch, stream in [(100, 1, 1), (101, 1, 1), (1, 2, 1), (2, 2, 1), (1, 2, 9)]:
        booked.path.reconcile(answered, epoch, stream)
    assert booked[paths.RESTARTS] == 1
    assert booked[paths.LOST_RETURN] == 0


def test_a_probe_left_unjudged_makes_no_other_loss_one_on_the_way_back() -> None:
    booked = Booked()
    booked.path.reconcile(1, 1, 1)
    booked.path.leave_unjudged(0)  # the responder counted it: 2
    booked.path.book_loss(1, 1)  # and never saw this one
    booked.path.reconcile(3, 1, 1)
    assert booked[paths.LOST_RETURN] == 0


@pytest.mark.parametrize(
    ("silent_seconds", "epoch", "restarted"),
    [(2, 2, 3), (2, 1, 0), (60, 2, 0)],
    ids=["restart", "loss", "long silence"],
)
def test_losses_right_before_another_boot_epoch_met_a_responder_that_restarted(
    silent_seconds: int, epoch: int, restarted: int
) -> None:
    booked, second = Booked(), 10**9
    booked.path.book_loss(1, second)  # before it was heard of, and then again: that one is the network's
    booked.path.reconcile(1, 1, 1)
    for number in range(3):
        booked.path.book_loss(1, second * (10 + silent_seconds * number // 2))
    booked.path.reconcile(2 if epoch == 1 else 1, epoch, 1)
    booked.path.book_loss(1, second * 100)
    outcomes = [result.outcome for result in booked.results.read(0)[0]]
    assert outcomes == [LOST] * 4 + [RESTARTED] * restarted + [LOST]
    assert booked[paths.LOSSES] == 5
    assert booked[paths.LOST_RETURN] == 0


@given(st.permutations(list(range(1, 8))))
def test_replies_that_overtake_one_another_are_no_loss(order: list[int]) -> None:
    booked = Booked()
    for answered in order:
        booked.path.book_sent()
        booked.path.reconcile(answered, 1, 1)
    assert booked[paths.LOST_RETURN] == 0


@pytest.mark.parametrize(("error", "sent", "unsent", "lost"), [(errno.EPERM, 0, 1, 0), (errno.ENETUNREACH, 1, 0, 1)])
def test_a_probe_that_did_not_leave_the_host_was_never_counted_as_sent(
    error: int, sent: int, unsent: int, lost: int
) -> None:
    """It was counted, then taken back: whoever read in between saw the counter fall, which is a reset."""
    booked, meanwhile = Booked(), []

    class Flow(FlowSocket):
        def __init__(self) -> None:
            """Opens nothing."""

        def send(self, *_: object) -> None:
            meanwhile.append(booked[paths.SENT])
            raise OSError(error, "no")

    UdpProber(Loop(), Codec(b"k" * 32), 0.5).send(booked.path, Flow())
    assert meanwhile == [0]
    assert (booked[paths.SENT], booked[paths.UNSENT], booked[paths.LOSSES]) == (sent, unsent, lost)


def test_each_outcome_is_one_result_with_the_identity_of_its_row() -> None:
    booked = Booked()
    booked.path.book_answer(15_000, 1_000)
    booked.path.book_loss(2_000, 5)
    booked.path.book_refusal(3_000)
    identity = booked.row.identity
    assert [tuple(result) for result in booked.results.read(0)[0]] == [
        (identity, 1_000, 15_000, ANSWERED, False),
        (identity, 2_000, 0, LOST, False),
        (identity, 3_000, 0, REFUSED, False),
    ]
    assert booked[paths.RTT_LAST] == 15e-6
    assert sum(booked.histogram.get(column) for column in range(len(RTT_TABLE.metrics[0].buckets) + 1)) == 1


def test_nobody_counts_handshakes_so_the_way_of_their_loss_is_absent() -> None:
    assert math.isnan(Booked("tcp")[paths.LOST_RETURN])
