"""Reading the tabular contracts piece by piece: CSV, CSV.gz, JSONL, Parquet, or a URL that serves one of them."""

from __future__ import annotations

import csv as lines
import io
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
from pyarrow import csv, json, parquet

from exporter.contracts.codec import ContractError
from skeleton_service.reading.fetching import fetch_each

BLOCK_BYTES = 16 << 20
BATCH_ROWS = 1 << 19

LIVE = ("http://", "https://")
_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Kinds = Mapping[str, pa.DataType]


def read_batches(
    sources: Sequence[str | Path], kinds: Kinds, required: Sequence[str], *, quorum: float = 0.0
) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Yield (source, rows) of every source, URLs fetched side by side.

    Rows have exactly the columns of ``kinds``, absent ones null. Columns are matched by name, in any
    order, others ignored; an empty cell is null. Memory is that of a batch, whatever the file's size. A live
    source that does not answer is left out with a line on standard error, since a dead host is just when
    one asks; ContractError is raised for a file that cannot be read, naming the column and, where there is
    one, the row, and, after the last row, where less than the share ``quorum`` of the sources answered or none.
    """
    names = [str(source) for source in sources]
    for name in names:
        if not name.startswith(LIVE):
            with _open(name) as file:
                for batch in _read(file, name, kinds, required):
                    yield name, batch
    silent: list[ContractError] = []
    for name, answer in fetch_each([name for name in names if name.startswith(LIVE)]):
        try:
            if isinstance(answer, ContractError):
                raise answer
            whole = list(_read(io.BufferedReader(io.BytesIO(answer)), name, kinds, required))
        except ContractError as error:
            silent.append(error)
            continue
        for batch in whole:
            yield name, batch
    if silent:
        _judge(silent, len(names), quorum)


def load_tables(sources: Sequence[str | Path], kinds: Kinds, required: Sequence[str]) -> list[tuple[str, pa.Table]]:
    """Read every source whole: [(source, table)], as ``read_batches`` does."""
    batches: dict[str, list[pa.RecordBatch]] = defaultdict(list)
    for name, batch in read_batches(sources, kinds, required):
        batches[name].append(batch)
    return [(name, pa.Table.from_batches(own)) for name, own in batches.items()]


def parse_table(data: bytes, name: str, kinds: Kinds, required: Sequence[str]) -> pa.Table:
    """What the live source ``name`` answered, as ``load_tables`` would read it."""
    return pa.Table.from_batches(_read(io.BufferedReader(io.BytesIO(data)), name, kinds, required))


def _judge(silent: Sequence[ContractError], asked: int, quorum: float) -> None:
    """Say which sources are left out, or refuse to go on with the rest."""
    if asked == 1:
        raise silent[0]
    reasons: dict[str, list[str]] = defaultdict(list)
    for error in silent:
        reasons[error.problem].append(error.source)
    told = "; ".join(f"{problem}: {', '.join(names)}" for problem, names in reasons.items())
    answered = asked - len(silent)
    if answered < max(quorum * asked, 1):
        raise ContractError(
            f"{len(silent)} of {asked} sources", told, f"at least {max(quorum, 1 / asked):.0%} must answer"
        )
    print(f"left out: {len(silent)} of {asked} sources: {told}", file=sys.stderr)


def _open(name: str) -> io.BufferedReader:
    try:
        return io.BufferedReader(io.FileIO(name), 1 << 16)
    except OSError as error:
        raise ContractError(name, error.strerror or str(error)) from error


def _read(file: io.BufferedReader, name: str, kinds: Kinds, required: Sequence[str]) -> Iterator[pa.RecordBatch]:
    try:
        head = file.peek(4)
        if head.startswith(_GZIP):
            file = io.BufferedReader(pa.CompressedInputStream(file, "gzip"), BLOCK_BYTES)
            head = file.peek(4)
        batches: Iterator[pa.RecordBatch]
        if not head.strip():
            if not name.startswith(LIVE):
                raise ContractError(name, "is empty", "give a file with a header line and rows")
            batches = iter(())  # an exporter's JSONL before its first row
        elif head.startswith(_PARQUET):
            batches = _parquet(file, name, kinds, required)
        elif head.removeprefix(_BYTE_ORDER_MARK).lstrip().startswith(b"{"):
            batches = _json(file, name, kinds)
        else:
            batches = _csv(file, name, kinds, required)
        yield pa.record_batch(
            [pa.nulls(0, kind) for kind in kinds.values()], names=list(kinds)
        )  # be there, rowless too
        for batch in batches:
            yield _conform(batch, name, kinds)
    except OSError as error:  # Arrow's words for gzip that ends early or does not check out
        if re.search("zlib|compressed", str(error)):
            raise ContractError(name, f"is not valid gzip: {_line(error)}", "was it copied whole?") from error
        raise ContractError(name, error.strerror or _line(error)) from error


def _require(columns: Sequence[str], name: str, kinds: Kinds, required: Sequence[str]) -> list[str]:
    """The columns of ``kinds`` that there are; each needed one must be there, and none twice."""
    needed = f"columns needed: {', '.join(required)}"
    for column in required:
        if column not in columns:
            raise ContractError(name, f"column '{column}' is missing", needed)
    wanted = [column for column in kinds if column in columns]
    for column in wanted:
        if columns.count(column) > 1:
            raise ContractError(name, f"column '{column}' appears twice", "keep one")
    return wanted


def _csv(file: io.BufferedReader, name: str, kinds: Kinds, required: Sequence[str]) -> Iterator[pa.RecordBatch]:
    first = file.peek().removeprefix(_BYTE_ORDER_MARK).splitlines()[:1]
    header = next(lines.reader(line.decode(errors="replace") for line in first), [])
    if not set(header) & set(required):
        problem = f"is not valid CSV: its first line is {_shorten(','.join(header))}"
        raise ContractError(name, problem, f"columns needed: {', '.join(required)}")
    convert = csv.ConvertOptions(
        column_types=kinds,
        include_columns=_require(header, name, kinds, required),
        strings_can_be_null=True,
        null_values=[""],
    )
    options = csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False)  # a single thread knows the row of an error
    try:
        yield from csv.open_csv(file, read_options=options, convert_options=convert)
    except pa.ArrowInvalid as error:
        raise ContractError(name, _explain_csv(str(error), header), "correct or remove the row") from error


def _json(file: BinaryIO, name: str, kinds: Kinds) -> Iterator[pa.RecordBatch]:
    schema = pa.schema([(column, _plain(kind)) for column, kind in kinds.items()])
    options = json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    try:
        yield from json.read_json(file, parse_options=options).to_batches()
    except pa.ArrowInvalid as error:
        raise ContractError(name, f"is not valid JSONL: {_line(error)}", "one object a line") from error


def _parquet(file: BinaryIO, name: str, kinds: Kinds, required: Sequence[str]) -> Iterator[pa.RecordBatch]:
    whole = file if file.seekable() else io.BytesIO(file.read())
    try:
        schema = parquet.read_schema(whole)
        wanted = _require(schema.names, name, kinds, required)
        words = [c for c in wanted if pa.types.is_dictionary(kinds[c]) and pa.types.is_string(schema.field(c).type)]
        table = parquet.ParquetFile(whole, read_dictionary=words, pre_buffer=False, buffer_size=1 << 20)
        yield from table.iter_batches(BATCH_ROWS, columns=wanted, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ContractError(name, f"is not valid Parquet: {_line(error)}", "was it copied whole?") from error


def _conform(batch: pa.RecordBatch, name: str, kinds: Kinds) -> pa.RecordBatch:
    columns = []
    for column, kind in kinds.items():
        place = batch.schema.get_field_index(column)
        if place < 0:
            columns.append(pa.nulls(len(batch), kind))
            continue
        try:
            values = batch.column(place)
            if pa.types.is_dictionary(kind) and not pa.types.is_dictionary(values.type):
                values = values.cast(_plain(kind)).dictionary_encode()
            columns.append(values.cast(kind))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            problem = f"column '{column}' is of type {batch.schema.types[place]}, not {_plain(kind)}"
            raise ContractError(name, problem, "convert it") from error
    return pa.record_batch(columns, names=list(kinds))


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


_COLUMN = re.compile(r"In CSV column #(\d+):(?: Row #(\d+):)?.*(?:invalid value '(.*)'|(invalid UTF8))", re.DOTALL)


def _explain_csv(message: str, header: Sequence[str]) -> str:
    match = _COLUMN.search(message)
    if match is None:
        return f"is not valid CSV: {_line(message)}"
    problem = "is not UTF-8" if match[4] else f"holds {_shorten(match[3])}, not a number"
    return f"column '{header[int(match[1])]}' {problem}" + (f", in row {match[2]}" if match[2] else "")


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _line(error: object) -> str:
    """One line fit for a terminal: a parser quotes the file, whatever is in it."""
    text = " ".join(str(error).split())
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])
