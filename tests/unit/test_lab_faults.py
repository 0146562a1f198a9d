"""Kinds of faults: their command lines, and what is refused before anything is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import faults
from lab.cli import parser
from lab.errors import LabError
from lab.faults import Faults
from lab.network.design import draw


@pytest.mark.parametrize("kind", list(faults.kinds()), ids=lambda kind: kind.name)
def test_every_kind_explains_itself(kind: faults.Kind, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["fault", kind.name, "--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert kind.help in shown
    assert all(parameter.help in shown for parameter in kind.parameters)


@pytest.mark.parametrize("kind", list(faults.kinds()), ids=lambda kind: kind.name)
def test_values_come_from_the_command_line_whole(kind: faults.Kind) -> None:
    given = [f"value{number}" for number, _ in enumerate(kind.parameters)]
    arguments = vars(parser().parse_args(["fault", kind.name, "target", *given]))
    assert arguments["target"] == "target"
    assert [arguments[name] for name in given] == given


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("no-such-kind", "x"), "no kind of fault"),
        (("silent-loss", "{link}"), "needs percent"),
        (("silent-loss", "{link}", "101"), "percent cannot be 101 %"),
        (("silent-loss", "{link}", "nan"), "percent cannot be nan %"),
        (("silent-loss", "{link}", "5", "both", "more"), "takes percent, toward"),
        (("link-down", "{link}x"), "perhaps"),
        (("rnic-slow", "{rnic}", "5", "sideways"), "one of all, vxlan, flows"),
        (("rnic-flap", "{rnic}", "2", "3"), "down must be shorter"),
        (("rnic-down", "{port}"), "no RNIC"),
        (("fdb-loop", "{container}", "all"), "a loop has two hosts"),
        (("fdb-missing", "{container}", "{own}"), "is on"),
        (("host-off", "nobody"), "no host"),
    ],
)
def test_nonsense_is_refused_and_nothing_is_recorded(tmp_path: Path, words: tuple[str, ...], complaint: str) -> None:
    design = draw(1)
    container = design.containers[0]
    link = design.links[0]
    names = {
        "link": link.id,
        "rnic": design.rnic_end(f"{design.hosts[0].name}:mlx5_0").id,
        "port": next(
            end.id for each in design.links for end in each.ends if end.node in {s.name for s in design.leaves}
        ),
        "container": container.name,
        "own": container.host,
    }
    broken = Faults(design, tmp_path)
    with pytest.raises(LabError) as refused:
        broken.inflict(*(word.format(**names) for word in words))
    assert complaint in str(refused.value)
    assert broken.active() == ()
