"""Contract files: what is read, what is refused and how it is said, and that a file appears whole or not at all."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.contracts.codec import Contract, ContractError, Version, decode, encode, read, write
from exporter.contracts.plan import Plan, read_plan
from exporter.contracts.skeleton import read_skeleton
from exporter.contracts.topology import Topology, read_topology


class Sample(Contract, frozen=True, kw_only=True):
    version: Version
    name: str
    sizes: tuple[int, ...] = ()


def test_json_and_yaml_say_the_same() -> None:
    expected = Sample(version=1, name="a", sizes=(1, 2))
    assert decode(b'{"version": 1, "name": "a", "sizes": [1, 2]}', Sample, "f.json") == expected
    assert decode(b"version: 1\nname: a\nsizes: [1, 2]\n", Sample, "f.yaml") == expected
    assert decode(b"{version: 1, name: a, sizes: [1, 2]}", Sample, "f.yaml") == expected


def test_a_byte_order_mark_and_crlf_are_legal() -> None:
    expected = Sample(version=1, name="a")
    assert decode(b'\xef\xbb\xbf{"version": 1,\r\n"name": "a"}\r\n', Sample, "f.json") == expected
    assert decode(b"\xef\xbb\xbfversion: 1\r\nname: a\r\n", Sample, "f.yaml") == expected


def test_unknown_fields_are_ignored() -> None:
    assert decode(b'{"version": 1, "name": "a", "colour": "red"}', Sample, "f") == Sample(version=1, name="a")


def test_fields_at_their_default_are_left_out() -> None:
    assert encode(Sample(version=1, name="a")) == b'{\n  "version": 1,\n  "name": "a"\n}\n'


@given(st.text(), st.lists(st.integers(-(2**63), 2**63 - 1)).map(tuple))
def test_what_is_written_is_read(name: str, sizes: tuple[int, ...]) -> None:
    sample = Sample(version=1, name=name, sizes=sizes)
    assert decode(encode(sample), Sample, "f.json") == sample


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "f.json: is empty"),
        (b"\xef\xbb\xbf \r\n", "f.json: is empty"),
        (b'{"version": 1,', "f.json: is not valid JSON: Input data was truncated"),
        (b"[]", "f.json: holds list, not a mapping"),
        (b'{"name": "a"}', "f.json: field 'version' is missing (add version: 1)"),
        (b'{"version": 2}', "f.json: field 'version' is 2, not 1 (this release reads version 1 only)"),
        (b'{"version": "1"}', "f.json: field 'version' is '1', not 1 (this release reads version 1 only)"),
        (b'{"version": true}', "f.json: field 'version' is True, not 1 (this release reads version 1 only)"),
        (b'{"version": 1}', "f.json: Object missing required field `name`"),
        (b'{"version": 1, "name": 5}', "f.json: field 'name': Expected `str`, got `int`"),
        (b'{"version": 1, "name": "a", "sizes": [1, "x"]}', "f.json: field 'sizes[1]': Expected `int`, got `str`"),
    ],
)
def test_a_refusal_is_one_line_with_file_field_and_remedy(data: bytes, message: str) -> None:
    with pytest.raises(ContractError) as refusal:
        decode(data, Sample, "f.json")
    assert str(refusal.value) == message


def test_a_yaml_error_names_its_line() -> None:
    with pytest.raises(ContractError, match=r"^f.yaml: is not valid YAML at line 2, column 11: "):
        decode(b'version: 1\nname: "a" b\n', Sample, "f.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 1\nname: a\nname: b\n", "line 3: key 'name' appears twice (merge the two)"),
        ("version: 1\nname: a\nother: {x: 1, y: 2, x: 1}\n", "line 3: key 'x' appears twice (merge the two)"),
        ("version: 1\nother:\n- b: 1\n  'b': 2\n", "line 4: key 'b' appears twice (merge the two)"),
        ("version: 1\nname: a\nother:\n\tb: 1\n", "line 4 begins with a tab (YAML wants spaces)"),
        ("version: 1\nother:\n  a: 1\n \tb: 1\n", "line 4 begins with a tab (YAML wants spaces)"),
    ],
)
def test_a_key_given_twice_and_a_tab_are_refused_with_their_line(text: str, message: str) -> None:
    with pytest.raises(ContractError) as refusal:
        decode(text.encode(), Sample, "f.yaml")
    assert str(refusal.value) == f"f.yaml: {message}"


def test_a_key_may_override_what_is_merged_in_and_be_alike_in_several_mappings() -> None:
    text = b"version: 1\nbase: &base {name: x, sizes: [1]}\nother: [{a: 1}, {a: 1}, *base, *base]\n<<: *base\nname: a\n"
    assert decode(text, Sample, "f.yaml") == Sample(version=1, name="a", sizes=(1,))
    assert decode(b"version: 1\nname: a\nother: {1: a, '1': b}\n", Sample, "f.yaml")


@pytest.mark.parametrize("value", ["2026-13-45", "!!int seven", "!!float much", "\x00", "!!python/name:os.system"])
def test_yaml_that_pyyaml_chokes_on_is_refused_like_any_other(value: str) -> None:
    with pytest.raises(ContractError, match=r"^f.yaml: is not valid YAML"):
        decode(f"version: 1\nname: {value}\n".encode(), Sample, "f.yaml")


@pytest.mark.parametrize("text", [b"[" * 200_000, b"{a: " * 200_000, b"a:\n" + b"- " * 200_000, b"? " * 200_000])
def test_deep_nesting_is_refused_instead_of_overrunning_the_stack(text: bytes, tmp_path: Path) -> None:
    """libyaml's composer recurses in C: this used to end the interpreter with a segmentation fault."""
    (tmp_path / "deep.yaml").write_bytes(text)
    program = "import sys; from exporter.contracts.topology import read_topology; read_topology(sys.argv[1])"
    argv = [sys.executable, "-c", program, tmp_path / "deep.yaml"]
    run = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.rstrip().endswith("deep.yaml: is nested too deeply")


def test_many_brackets_side_by_side_are_not_deep() -> None:
    document = "version: 1\nname: a\nsizes: [1]\nother:\n" + "- {a: [1, 2], b: {c: []}}\n" * 2000
    assert decode(document.encode(), Sample, "f.yaml") == Sample(version=1, name="a", sizes=(1,))


def test_a_missing_file_says_the_systems_reason(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"none\.yaml: No such file or directory$"):
        read(tmp_path / "none.yaml", Topology)


def test_a_directory_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"Is a directory$"):
        read(tmp_path, Plan)


def test_a_check_sees_the_value_and_the_file(tmp_path: Path) -> None:
    def check(value: Sample, source: str) -> None:
        raise ContractError(source, f"no {value.name}", "rename it")

    (tmp_path / "s.yaml").write_text("version: 1\nname: a\n")
    with pytest.raises(ContractError, match=r"s\.yaml: no a \(rename it\)$"):
        read(tmp_path / "s.yaml", Sample, check)


def test_a_written_file_is_readable_by_all_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "out.json", b"old")
    write(tmp_path / "out.json", b"new")
    assert (tmp_path / "out.json").read_bytes() == b"new"
    assert (tmp_path / "out.json").stat().st_mode & 0o777 == 0o644
    assert os.listdir(tmp_path) == ["out.json"]


def test_a_write_that_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """RLIMIT_FSIZE fails the write after its first 64 KiB, as a full disk does."""
    (tmp_path / "out.json").write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(ContractError, match=r"out\.json: cannot be written: File too large$"):
            write(tmp_path / "out.json", bytes(1 << 18))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "out.json").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.json"]


def test_writing_where_no_directory_is_fails_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"none/out\.json: cannot be written: No such file or directory$"):
        write(tmp_path / "none/out.json", b"x")


def test_a_directory_in_the_way_is_an_error_and_nothing_is_left_over(tmp_path: Path) -> None:
    (tmp_path / "out.json").mkdir()
    with pytest.raises(ContractError, match=r"cannot be written: Is a directory$"):
        write(tmp_path / "out.json", b"x")
    assert os.listdir(tmp_path) == ["out.json"]


@pytest.mark.parametrize("reader", [read_plan, read_topology, read_skeleton])
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("f.json", b'{"version":1,"job":"\xff"}'),
        ("f.yaml", b'{"version":1,"job":"\xff"}'),
        ("f.yaml", b"version: 1\njob: \xff\n"),
        ("f.yaml", b"\xff\xfe"),
        ("f.json", b'{"version":1,"generation":1180591620717411303424}'),
    ],
)
def test_bytes_that_are_not_utf_8_and_integers_without_end_are_one_line(
    reader: Callable[[Path], object], name: str, data: bytes, tmp_path: Path
) -> None:
    """They used to leave as UnicodeDecodeError or OverflowError."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ContractError) as refusal:
        reader(tmp_path / name)
    assert str(refusal.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(refusal.value)


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    """It used to be replaced by a file, and its reader waited for ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        try:
            write(pipe, b"new")
            assert reader.communicate(timeout=5)[0] == b"new"
        finally:
            reader.kill()
    assert pipe.is_fifo()


def test_a_file_behind_a_symbolic_link_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "plan.json").write_bytes(b"old")
    link = tmp_path / "plan.json"
    link.symlink_to("there/plan.json")
    write(link, b"new")
    assert link.is_symlink()
    assert (tmp_path / "there" / "plan.json").read_bytes() == b"new"
