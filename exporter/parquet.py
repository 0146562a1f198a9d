"""Probe records in Parquet, written by a process of its own that ends with the answer.

``pyarrow`` takes more memory than the rest of the exporter together, so no process that stays imports it:
``python -m exporter.parquet`` reads CSV from standard input and writes Parquet to standard output.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from io import BytesIO
from typing import get_args, get_type_hints

from exporter.contracts.tables import ProbeRecord
from exporter.oneshot import OneShot

_ONE = OneShot("exporter.parquet", "convert to Parquet")


def is_possible() -> bool:
    return find_spec("pyarrow") is not None


def from_csv(text: bytes) -> bytes:
    """Probe records in CSV as Parquet; raise OneShotError."""
    return _ONE.run(text)


def main() -> None:
    os.nice(19)  # the prober goes first
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import csv, parquet  # noqa: PLC0415

    def kind(hint: object) -> pa.DataType:
        """Of a column that may be empty, int, float or text, or some of their values."""
        options = [type(option) if isinstance(option, (int, str)) else option for option in _flat(hint)]
        return pa.int64() if int in options else pa.float64() if float in options else pa.string()

    kinds = {name: kind(hint) for name, hint in get_type_hints(ProbeRecord).items()}
    convert = csv.ConvertOptions(column_types=kinds, strings_can_be_null=True, null_values=[""])
    table = csv.read_csv(BytesIO(sys.stdin.buffer.read()), convert_options=convert)
    written = BytesIO()
    parquet.write_table(table, written, compression="zstd")
    sys.stdout.buffer.write(written.getbuffer())


def _flat(hint: object) -> list[object]:
    """``int | None`` as [int, NoneType], ``Literal[0, 1] | None`` as [0, 1, NoneType]."""
    inner = get_args(hint)
    return [each for part in inner for each in _flat(part)] if inner else [hint]


if __name__ == "__main__":
    main()
