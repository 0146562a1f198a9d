"""Values that do not fit their type: what would fit is said."""

from __future__ import annotations

import enum
from typing import Annotated, Any, Literal

import msgspec
import pytest

from exporter.contracts.explain import explain


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    state: Literal["up", "down"] = "up"
    colours: tuple[Colour, ...] = ()


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    inner: Inner | None = None
    section: Inner = Inner()
    by_name: dict[str, Inner | int] = {}
    numbers: list[Annotated[int, msgspec.Meta(ge=1)]] | None = None
    one_of_many: Literal["a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9", "b0", "b1", "b2"] = "a0"
    renamed: Inner | None = msgspec.field(name="class", default=None)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"inner": {"state": "dwon"}}, ("'dwon' is none of up, down", "inner.state", "did you mean 'down'?")),
        ({"inner": {"state": "x"}}, ("'x' is none of up, down", "inner.state", "")),
        (
            {"by_name": {"a": {"colours": ["rde"]}}},
            ("'rde' is none of red, blue", "by_name[...].colours[0]", "did you mean 'red'?"),
        ),
        (
            {"one_of_many": "x"},
            ("'x' is none of a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, b0, b1, ...", "one_of_many", ""),
        ),
        ({"by_name": {"a": {"sate": 1}}}, ("unknown key 'by_name[...].sate'", "", "did you mean 'state'?")),
        ({"class": {"sate": 1}}, ("unknown key 'class.sate'", "", "did you mean 'state'?")),
        ({"clas": {}}, ("unknown key 'clas'", "", "did you mean 'class'?")),
        ({"zzz": 1}, ("unknown key 'zzz'", "", "remove it")),
        ({"section": None}, ("is empty", "section", "leave it out")),
        ({"one_of_many": None}, ("is empty", "one_of_many", "give it a value, or leave it out")),
        ({"numbers": 3}, ("Expected `array | null`, got `int`", "numbers", "write [3]")),
        ({"numbers": [0]}, ("Expected `int` >= 1", "numbers[0]", "")),
        ({"by_name": {1: {}}}, ("Expected `str`", "", "")),
        (
            {"by_name": {"a": {"colours": "red"}}},
            ("Expected `array`, got `str`", "by_name[...].colours", "write [red]"),
        ),
        ([], ("Expected `object`, got `array`", "", "")),
    ],
)
def test_a_value_that_does_not_fit_is_said_with_what_would(document: Any, expected: tuple[str, str, str]) -> None:
    with pytest.raises(msgspec.ValidationError) as error:
        msgspec.convert(document, Outer)
    found = explain(error.value, document, Outer)
    if "key" in str(error.value) and " in `" in str(error.value):
        assert found.problem == str(error.value)  # as msgspec says it
    else:
        assert found == expected
