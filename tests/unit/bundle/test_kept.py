"""Bundles and a store that edgekit 0.1.0 wrote are read, and written back to the same bytes."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from conftest import ROOT
from small_bundle import fill

from edgekit.bundle.manifest import MANIFEST, VERDICT, read_manifest
from edgekit.bundle.verdict import Record, read_record, verdict_document
from edgekit.device.local import LocalTransport
from edgekit.progress import Silent
from edgekit.report.explanation import render_explanation
from edgekit.report.verdict import render_verdict
from edgekit.store.store import Store, release_of

KEPT = ROOT / "tests" / "kept" / "0.1"
BUNDLES = sorted(path for path in KEPT.iterdir() if path.is_dir())


def record_of(bundle: Path) -> Record:
    return read_record(bundle, read_manifest(bundle).digest)


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_documents_come_back_to_the_same_bytes(bundle: Path) -> None:
    assert read_manifest(bundle).to_bytes() == (bundle / MANIFEST).read_bytes()
    assert record_of(bundle).to_bytes() == (bundle / VERDICT).read_bytes()


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_they_are_shown_and_explained(bundle: Path) -> None:
    manifest, record = read_manifest(bundle), record_of(bundle)
    document = verdict_document("edgekit.check/1", bundle, manifest, record, record.limits)
    assert document.plan.precision in render_verdict(document)
    assert document.plan.precision in render_explanation(document)
    written = json.loads(document.to_json())
    assert written["schema"] == "edgekit.check/1"
    assert written["plan"]["schema"] == "edgekit.plan/1"
    assert written["program"]["layers"][0].keys() == {"layer", "quantized", "floating"}


def test_what_was_measured_is_there() -> None:
    record = record_of(KEPT / "digits_pruned")
    assert record.environment is not None
    assert record.environment.emulated is False
    assert record.environment.during.samples > 0
    assert record.compression[0].name == "prune"
    trained = record.compression[-1].training
    assert trained is not None
    assert not trained.interrupted


def test_later_keys_are_left_out() -> None:
    data = json.loads((KEPT / "digits_int8" / VERDICT).read_bytes())
    data.pop("digest")
    data["ladder"][0]["colour"] = "green"
    assert Record.model_validate(data).ladder[0].precision == "int8"


def test_its_store_goes_on(tmp_path: Path) -> None:
    with tarfile.open(KEPT / "store.tar.gz") as archive:
        # Python 3.11.2 has no filters yet
        archive.extractall(
            tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {})
        )
    store = Store(LocalTransport(), str(tmp_path / "store"))
    rows = store.releases()
    assert [row.name for row in rows] == ["tiny", "tiny"]
    (before,) = [row.release for row in rows if row.current]
    (other,) = [row.release for row in rows if not row.current]
    assert store.rollback("tiny") == (before, other)
    fill(tmp_path / "bundle", "tiny", model=b"three")
    release = release_of(tmp_path / "bundle", read_manifest(tmp_path / "bundle"), None)
    done = store.install(release, current=True, progress=Silent())
    assert done.reused_bytes > 0
    assert (tmp_path / "store" / "tiny" / "current" / "model.pte").read_text() == "three"
    store.remove("tiny")
    assert not store.releases()
