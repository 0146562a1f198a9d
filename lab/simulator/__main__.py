"""``python -m lab.simulator CASE --output DIRECTORY`` writes a simulated job's files; without arguments, the cases."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import csv, parquet

from exporter.contracts.codec import ContractError, encode, write
from lab.simulator import CASES, simulate


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.simulator", description=__doc__)
    parser.add_argument("case", nargs="?", choices=sorted(CASES), metavar="CASE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hosts", type=int, help="of the job (default: drawn)")
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--step", type=float, default=1.0, help="between samples, in seconds")
    parser.add_argument("--output", type=Path, metavar="DIRECTORY")
    parser.add_argument("--ranks", action="store_true", help="tell each container's rank")
    parser.add_argument("--csv", action="store_true", help="throughput.csv.gz instead of throughput.parquet")
    arguments = parser.parse_args(words)
    if arguments.case is None:
        width = max(map(len, CASES))
        print("\n".join(f"{case.name:{width}}  {case.help}" for case in CASES.values()))
        return 0
    if arguments.output is None:
        parser.error("--output is missing: name a directory")
    try:
        simulation = simulate(
            CASES[arguments.case],
            arguments.seed,
            hosts=arguments.hosts,
            seconds=arguments.seconds,
            step_seconds=arguments.step,
        )
        arguments.output.mkdir(parents=True, exist_ok=True)
        write(arguments.output / "topology.json", encode(simulation.topology))
        write(arguments.output / "truth.json", encode(simulation.truth))
        table = simulation.table(ranks=arguments.ranks)
        if arguments.csv:
            _write_csv(table, arguments.output / "throughput.csv.gz")
        else:
            parquet.write_table(table, arguments.output / "throughput.parquet", compression="zstd")
    except (ContractError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _write_csv(table: pa.Table, path: Path) -> None:
    plain = table.cast(
        pa.schema([(f.name, f.type.value_type if pa.types.is_dictionary(f.type) else f.type) for f in table.schema])
    )
    with pa.CompressedOutputStream(str(path), "gzip") as file:
        csv.write_csv(plain, file)


if __name__ == "__main__":
    sys.exit(main())
