"""Counter samples in every form they may come in, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from exporter.contracts import counters
from exporter.contracts.catalogue import CATALOGUE
from exporter.contracts.codec import ContractError
from exporter.contracts.tables import CounterSample
from skeleton_service.reading.counters import KINDS, read_counters

HEADER = "time,metric,node,port,priority,queue,vlan,peer,value"
ROW = "1760000000.5,fabric_switch_port_pfc_receive_frames_total,leaf-0,Ethernet4,3,,,,131"
DOCS = Path(__file__).parents[2] / "docs/contracts/counter-samples.md"


def write(directory: Path, text: str) -> Path:
    path = directory / "counters.csv"
    path.write_text(text)
    return path


def test_the_columns_are_those_of_the_contract() -> None:
    assert tuple(KINDS) == CounterSample.__struct_fields__


def test_samples_are_the_same_in_every_form(tmp_path: Path) -> None:
    text = f"{HEADER}\n{ROW}\n"
    plain = read_counters([write(tmp_path, text)])
    (tmp_path / "packed.csv.gz").write_bytes(gzip.compress(("\ufeff" + text.replace("\n", "\r\n")).encode()))
    (tmp_path / "lines.jsonl").write_text(json.dumps(plain.to_pylist()[0]) + "\n")
    pq.write_table(plain, tmp_path / "table.parquet")
    for name in ("packed.csv.gz", "lines.jsonl", "table.parquet"):
        assert read_counters([tmp_path / name]) == plain
    assert plain.to_pylist() == [
        {
            "time": 1760000000.5, "metric": counters.PFC_RECEIVED, "node": "leaf-0", "port": "Ethernet4", "priority": 3,
            "queue": None, "vlan": None, "peer": None, "value": 131.0,
        }
    ]  # fmt: skip


def test_optional_columns_and_metrics_that_nobody_knows(tmp_path: Path) -> None:
    path = write(tmp_path, "weather,value,node,metric,time\nfine,-3,leaf-0,vendor_temperature,1\n")
    (row,) = read_counters([path, path]).slice(1).to_pylist()
    assert (row["metric"], row["value"], row["port"], row["vlan"]) == ("vendor_temperature", -3.0, None, None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("time,metric,node\n1,a,b\n", "column 'value' is missing"),
        (f"{HEADER}\n{ROW}\n{ROW.replace('131', 'NaN')}\n", "column 'value' holds a value that is not finite"),
        (f"{HEADER}\n{ROW.replace('131', 'inf')}\n", "column 'value' holds a value that is not finite"),
        (f"{HEADER}\n{ROW.replace('1760000000.5', 'nan')}\n", "column 'time' holds a value that is not finite"),
        (f"{HEADER}\n{ROW.replace('1760000000.5', '-1')}\n", "column 'time' is negative"),
        (f"{HEADER}\n{ROW.replace('131', '')}\n", "column 'value' has an empty cell"),
        (f"{HEADER}\n{ROW.replace('leaf-0', '')}\n", "column 'node' has an empty cell"),
        (f"{HEADER}\n{ROW.replace('131', '-131')}\n", "counter 'fabric_switch_port_pfc_receive_frames_total' is nega"),
        (f"{HEADER}\n{ROW.replace(',3,', ',8,')}\n", "column 'priority' is outside 0 to 7"),
        (f"{HEADER}\n{ROW.replace('131', 'many')}\n", "column 'value'"),
        ("", "is empty"),
    ],
)
def test_what_is_refused_names_the_file_and_the_column(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=problem) as refused:
        read_counters([write(tmp_path, text)])
    assert "counters.csv" in str(refused.value)


def test_no_source() -> None:
    with pytest.raises(ContractError, match="no source"):
        read_counters([])


def test_every_name_is_a_counter_or_a_gauge_as_it_says_and_documented() -> None:
    source = Path(counters.__file__).read_text()
    text = DOCS.read_text()
    kinds = {metric.name: metric.kind for metric in CATALOGUE}
    for name, value in vars(counters).items():
        if name.isupper():
            kind = kinds.get(value) or source.split(f"\n{name} = ", 1)[1].split('"""')[1]
            assert kind.startswith("counter" if counters.is_counter(value) else "gauge"), name
            assert f"`{value.replace('{}', '*')}`" in text, f"{name} is missing in {DOCS.name}"


def test_a_header_without_rows_is_no_sample_and_no_error(tmp_path: Path) -> None:
    """It used to be refused: of no times at all, Arrow does not say that all are finite."""
    assert len(read_counters([write(tmp_path, f"{HEADER}\n")])) == 0
