"""The committed JSON Schemas are the generated ones, and every example obeys its own."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml

from exporter.contracts.codec import encode
from exporter.contracts.schemas import CONTRACTS, schema
from exporter.contracts.tables import CounterSample, ProbeRecord, ThroughputRow

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
DOCUMENTS = {
    "topology.yaml": "topology",
    "skeleton.json": "skeleton",
    "plan.json": "plan",
    "diagnosis.json": "diagnosis",
    "intent.yaml": "intent",
    "neighbors.json": "neighbors",
    "job.yaml": "job",
}
TABLES = {
    "throughput.csv": ("throughput", ThroughputRow),
    "probe-records.csv": ("probe-records", ProbeRecord),
    "settings.csv": ("counter-samples", CounterSample),
}


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_committed_schema_is_the_generated_one(name: str) -> None:
    """`make schemas` writes them."""
    assert (ROOT / f"docs/contracts/{name}.schema.json").read_bytes() == encode(schema(name))


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_schema_is_itself_valid(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(name))


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema(name))


@pytest.mark.parametrize(("file", "name"), DOCUMENTS.items())
def test_an_example_document_obeys_its_schema(file: str, name: str) -> None:
    validator(name).validate(yaml.safe_load((EXAMPLES / file).read_text()))


@pytest.mark.parametrize(("file", "name", "kind"), [(file, *rest) for file, rest in TABLES.items()])
def test_the_rows_of_an_example_table_obey_their_schema(file: str, name: str, kind: type[msgspec.Struct]) -> None:
    check = validator(name)
    with open(EXAMPLES / file, newline="") as text:
        rows = list(csv.DictReader(text))
    assert rows
    for row in rows:
        cells: dict[str, Any] = {key: value or None for key, value in row.items()}
        check.validate(json.loads(msgspec.json.encode(msgspec.convert(cells, kind, strict=False))))


def test_every_example_is_checked() -> None:
    others = {
        "regenerate.sh",
        "rules",
        "ci",
        "tests",
        "README.md",
    }  # rules, jobs and tests: test_examples, test_ci_examples
    assert {path.name for path in EXAMPLES.iterdir()} - others == {*DOCUMENTS, *TABLES}


def test_a_schema_refuses_what_the_reader_refuses() -> None:
    document = json.loads((EXAMPLES / "plan.json").read_text())
    document["targets"][0]["traffic_class"] = 256
    with pytest.raises(jsonschema.ValidationError):
        validator("plan").validate(document)
    with pytest.raises(jsonschema.ValidationError):
        validator("plan").validate({**document, "version": 2})
