"""bench of a small bundle whose runner is a double: what becomes of the runner's report."""

from __future__ import annotations

import json
import sys

import jsonschema
import pytest
from conftest import ROOT
from small_bundle import fill

import edgekit
from edgekit.bundle.verdict import amend_record, read_record
from edgekit.documents.measure import BenchDocument
from edgekit.report.bench import render_bench

SCHEMA = json.loads((ROOT / "edgekit" / "schemas" / "contract.schema.json").read_text())
DOUBLE = (ROOT / "tests" / "doubles" / "runner_double.py").read_text()
SOFTWARE = {"python": "3.11.2", "numpy": "1.24.2", "tflite_runtime": "2.14.0"}


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_ROOT", str(tmp_path / "store"))
    monkeypatch.setenv("DOUBLE_MODEL", '{"inputs": [], "outputs": []}')
    fill(tmp_path / "bundle", runner=f"#!{sys.executable}\n{DOUBLE}".encode())
    return tmp_path / "bundle"


@pytest.mark.parametrize("software", [SOFTWARE, None])
def test_the_software_of_a_device(bundle, monkeypatch, software) -> None:
    """Versions change the numbers. A native runner has none beside the bundle's own."""
    if software:
        monkeypatch.setenv("DOUBLE_REPORT", json.dumps({"software": software}))
    document = edgekit.bench(bundle, runs=3)
    jsonschema.validate(json.loads(document.to_json()), SCHEMA)
    assert json.loads(document.to_json())["environment"].get("software") == software
    assert BenchDocument.model_validate_json(document.to_json()) == document
    text = render_bench(document)
    assert all(version in text for version in (software or {}).values())
    assert "None" not in text


def test_the_verdict_of_a_bundle_has_it_too(bundle, monkeypatch) -> None:
    monkeypatch.setenv("DOUBLE_REPORT", json.dumps({"software": SOFTWARE}))
    amend_record(bundle, environment=edgekit.bench(bundle, runs=3).environment)
    manifest = json.loads((bundle / "manifest.json").read_text())["digest"]
    assert read_record(bundle, manifest).environment.software == SOFTWARE
