"""Reading and writing the contract files, with errors that name the file, the field and the remedy.

Rules common to every JSON/YAML contract: ``version: 1`` is required and any other version is
refused, unknown fields are ignored, and a file appears whole or not at all.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from exporter.contracts.explain import explain

T = TypeVar("T")
Version = Literal[1]

MAX_FILE_BYTES, _PIECE_BYTES = 1 << 30, 1 << 20
_MAX_DEPTH = 200
_TAB_FIRST = re.compile(rb" *\t")
_BRACKET = re.compile(rb"[\[\]{}]")
_DEEP_INDENT = re.compile(rb"^[ ?:-]{%d}" % _MAX_DEPTH, re.MULTILINE)


class ContractError(ValueError):
    """A file or value that breaks its contract. ``str()`` is one line fit for a terminal."""

    def __init__(self, source: str, problem: str, remedy: str = "") -> None:
        self.source = source
        self.problem = problem
        self.remedy = remedy
        text = f"{source}: {problem}" + (f" ({remedy})" if remedy else "")
        # A name in it may be whatever somebody wrote, and a line of it must not pass for one of ours.
        super().__init__("".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text))

    def __reduce__(self) -> tuple[type[ContractError], tuple[str, str, str]]:
        """From one process to another."""
        return type(self), (self.source, self.problem, self.remedy)


class Contract(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Base of everything that crosses a boundary: immutable, keyword-only, optional fields left out."""


def read_bytes(path: Path | str) -> bytes:
    """Read a file whole; raise ContractError with the operating system's reason."""
    source = str(path)
    pieces: list[bytes] = []
    left = MAX_FILE_BYTES
    try:
        with open(path, "rb") as file:
            while left >= 0 and (piece := file.read(_PIECE_BYTES)):  # to ask for all it may be is to have room for that
                pieces.append(piece)
                left -= len(piece)
    except OSError as error:
        raise ContractError(source, error.strerror or str(error)) from error
    if left < 0:
        raise ContractError(source, "is larger than 1 GiB", "split it by job or by time")
    return b"".join(pieces)


def decode(data: bytes, kind: type[T], source: str) -> T:
    """Decode JSON, or YAML when it is not JSON, into ``kind``; raise ContractError."""
    return convert(parse(data, source), kind, source)


def parse(data: bytes, source: str) -> Any:
    """What JSON, or YAML when it is not JSON, holds; raise ContractError."""
    if data[:3] == b"\xef\xbb\xbf":
        data = data[3:]
    if not data.strip():
        raise ContractError(source, "is empty")
    if data.lstrip()[:1] in (b"{", b"["):
        try:
            return msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            # Flow-style YAML starts with a brace too; only a file that is neither is refused.
            if source.endswith(".json"):
                raise ContractError(source, f"is not valid JSON: {error}") from error
        except RecursionError as error:
            raise ContractError(source, "is nested too deeply") from error
    if _nested_too_deeply(data):
        raise ContractError(source, "is nested too deeply")
    import yaml  # noqa: PLC0415 - most processes never read YAML

    try:
        return yaml.load(data, Loader=_yaml_loader())  # noqa: S506 - a safe loader, in C where it is built
    except _GivenTwiceError as error:
        raise ContractError(source, f"line {error.line}: key {error.key!r} appears twice", "merge the two") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        if mark and _TAB_FIRST.match(_line(data, mark.line)):
            raise ContractError(source, f"line {mark.line + 1} begins with a tab", "YAML wants spaces") from error
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", error)).split())  # PyYAML's own lines may be several
        raise ContractError(source, f"is not valid YAML{where}: {problem}") from error
    # A date that is none, an integer of 5,000 digits, `!!int ''`: PyYAML lets Python's own errors out.
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise ContractError(source, f"is not valid YAML: {error}") from error


class _GivenTwiceError(Exception):
    def __init__(self, key: str, line: int) -> None:
        super().__init__(key, line)
        self.key, self.line = key, line


@cache
def _yaml_loader() -> Any:
    """A safe loader, in C where it is built, that refuses a key given twice: YAML would keep the last one alone."""
    import yaml  # noqa: PLC0415 - most processes never read YAML

    scalar = yaml.ScalarNode

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            pairs = node.value if isinstance(node, yaml.MappingNode) else ()
            if len({(key.tag, key.value) for key, _ in pairs if type(key) is scalar}) < len(pairs):
                _refuse_twice(key for key, _ in pairs if type(key) is scalar)
            return super().construct_mapping(node, deep)

    return Loader


def _refuse_twice(keys: Iterable[Any]) -> None:
    seen: set[tuple[str, str]] = set()
    for key in keys:
        if (key.tag, key.value) in seen:
            raise _GivenTwiceError(key.value, key.start_mark.line + 1)
        seen.add((key.tag, key.value))


def _line(data: bytes, number: int) -> bytes:
    lines = data.splitlines()
    return lines[number] if number < len(lines) else b""


def _nested_too_deeply(data: bytes) -> bool:
    """Whether YAML may nest deeper than any contract does: libyaml's composer would overrun the C stack."""
    if _DEEP_INDENT.search(data):
        return True
    depth = 0
    for match in _BRACKET.finditer(data):
        depth = max(depth + (1 if match[0] in b"[{" else -1), 0)
        if depth > _MAX_DEPTH:
            return True
    return False


def convert(document: Any, kind: type[T], source: str) -> T:
    """Turn parsed JSON/YAML into ``kind``, refusing other versions first: later fields may differ."""
    if document is None:  # nothing but comments
        raise ContractError(source, "is empty")
    if not isinstance(document, dict):
        raise ContractError(source, f"holds {type(document).__name__}, not a mapping")
    if "version" in getattr(kind, "__struct_fields__", ()):
        version = document.get("version")
        if version is None:
            raise ContractError(source, "field 'version' is missing", "add version: 1")
        if version != 1 or isinstance(version, bool):
            raise ContractError(source, f"field 'version' is {version!r}, not 1", "this release reads version 1 only")
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        problem, where, remedy = explain(error, document, kind)
        raise ContractError(source, f"field '{where}': {problem}" if where else problem, remedy) from error


def read(path: Path | str, kind: type[T], check: Callable[[T, str], None] | None = None) -> T:
    """Read a contract file; ``check`` adds what types cannot say and raises ContractError."""
    value = decode(read_bytes(path), kind, str(path))
    if check is not None:
        check(value, str(path))
    return value


def encode(value: Any) -> bytes:
    """Canonical JSON: two-space indent, a final newline, so that files can be compared and committed."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def write(path: Path | str, data: bytes) -> None:
    """Replace a file whole: a reader sees the old or the new one, also after a crash or a full disk."""
    target = Path(path).resolve()
    try:
        if target.exists() and not target.is_file():  # a pipe or a device takes bytes; it is not replaced
            target.write_bytes(data)
            return
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), 0o644)
                os.replace(file.name, target)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise ContractError(str(target), f"cannot be written: {error.strerror or error}") from error
