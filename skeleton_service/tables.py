"""Reading the tabular contracts: CSV, CSV.gz, JSONL, Parquet, or a URL that serves CSV."""

from __future__ import annotations

import gzip
import io
import re
import sys
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import pyarrow as pa
from pyarrow import csv, json, parquet

from exporter.contracts.codec import ContractError, read_bytes

URL_TIMEOUT_SECONDS = 10.0
MAX_URL_BYTES = 1 << 30

MAX_PARALLEL = 16
_LIVE = ("http://", "https://")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def load_table(source: str | Path, kinds: Mapping[str, pa.DataType], required: Sequence[str]) -> pa.Table:
    """Read ``source`` and return exactly the columns of ``kinds``, absent ones null.

    Columns are matched by name, in any order, others ignored; an empty cell is null. Raise
    ContractError naming the source, the column and, where there is one, the row.
    """
    name = str(source)
    data = _fetch(name) if name.startswith(_LIVE) else read_bytes(source)
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ContractError(name, f"is not valid gzip: {error}", "was it copied whole?") from error
    if not data.strip():
        raise ContractError(name, "is empty", "give a file with a header line and rows")
    table = _parse(data, name, kinds)
    for column in required:
        if column not in table.column_names:
            raise ContractError(name, f"column '{column}' is missing", f"columns needed: {', '.join(required)}")
    columns = []
    for column, kind in kinds.items():
        if column not in table.column_names:
            columns.append(pa.nulls(len(table), kind))
            continue
        try:
            columns.append(table[column].cast(kind))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ContractError(name, f"column '{column}' is of type {table[column].type}, not {kind}") from error
    return pa.table(dict(zip(kinds, columns, strict=True)))


def _parse(data: bytes, name: str, kinds: Mapping[str, pa.DataType]) -> pa.Table:
    if data[:4] == b"PAR1":
        try:
            return parquet.read_table(io.BytesIO(data))
        except (pa.ArrowException, OSError) as error:
            raise ContractError(name, f"is not valid Parquet: {_line(error)}") from error
    data = data.removeprefix(_BYTE_ORDER_MARK)
    if data.lstrip()[:1] == b"{":
        schema = pa.schema(list(kinds.items()))
        options = json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        try:
            return json.read_json(io.BytesIO(data), parse_options=options)
        except pa.ArrowInvalid as error:
            raise ContractError(name, f"is not valid JSONL: {_line(error)}", "one object a line") from error
    header = data.split(b"\n", 1)[0].decode(errors="replace").strip().replace('"', "").split(",")
    convert = csv.ConvertOptions(column_types=kinds, strings_can_be_null=True, null_values=[""])
    try:
        return csv.read_csv(io.BytesIO(data), convert_options=convert)
    except pa.ArrowInvalid as error:
        raise ContractError(name, _explain_csv(str(error), header), "correct or remove the row") from error


def load_tables(
    sources: Sequence[str | Path], kinds: Mapping[str, pa.DataType], required: Sequence[str]
) -> list[tuple[str, pa.Table]]:
    """Load every source, URLs side by side; return [(name, table)].

    A live source that does not answer is left out with a line on standard error, since a dead host is just
    when one asks; a file that cannot be read, or live sources that are all dead, raise ContractError.
    """

    def load(source: str | Path) -> pa.Table | ContractError:
        try:
            return load_table(source, kinds, required)
        except ContractError as error:
            return error

    with ThreadPoolExecutor(max_workers=MAX_PARALLEL) as pool:
        answers = list(zip(map(str, sources), pool.map(load, sources), strict=True))
    failed = [(name, answer) for name, answer in answers if isinstance(answer, ContractError)]
    for name, error in failed:
        if not name.startswith(_LIVE) or len(failed) == len(answers):
            raise error
        print(f"left out: {error}", file=sys.stderr)
    return [(name, answer) for name, answer in answers if not isinstance(answer, ContractError)]


def _fetch(url: str) -> bytes:
    try:
        with urlopen(url, timeout=URL_TIMEOUT_SECONDS) as answer:  # noqa: S310 - the caller checked the scheme
            data: bytes = answer.read(MAX_URL_BYTES + 1)
    except (HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise ContractError(url, f"cannot be fetched: {reason}") from error
    if len(data) > MAX_URL_BYTES:
        raise ContractError(url, "serves more than 1 GiB", "ask for less with ?since=")
    return data


_COLUMN = re.compile(r"In CSV column #(\d+):(?: Row #(\d+):)?.*invalid value '(.*)'", re.DOTALL)


def _explain_csv(message: str, header: list[str]) -> str:
    match = _COLUMN.search(message)
    if match is None:
        return f"is not valid CSV: {_line(message)}"
    column = header[int(match[1])] if int(match[1]) < len(header) else match[1]
    return f"column '{column}' holds {match[3]!r}, not a number" + (f", in row {match[2]}" if match[2] else "")


def _line(error: object) -> str:
    return " ".join(str(error).split())
