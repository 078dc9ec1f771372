"""What a verdict's text says of a program's operators."""

from __future__ import annotations

import pytest
from small_bundle import fill

from edgekit.budget import BudgetLine
from edgekit.bundle.read import open_bundle
from edgekit.bundle.verdict import verdict_document
from edgekit.program import LayerCount, OutsideOperator
from edgekit.report.verdict import render_verdict, undecided

NOTE = "predicted, not measured: --device measures it"


@pytest.fixture
def document(tmp_path):
    fill(tmp_path / "bundle")
    manifest, record = open_bundle(tmp_path / "bundle")
    return verdict_document("edgekit.build/1", tmp_path / "bundle", manifest, record, {})


def shown(document, runtime: str, *delegates: str, is_delegated: bool = True) -> str:
    program = document.program.replaced(
        layers=(LayerCount(layer="stem", quantized=13, floating=2),) if is_delegated else (),
        outside=(OutsideOperator(operator="STRIDED_SLICE", layer="shortcut", count=4),),
        delegates=delegates,
    )
    return render_verdict(document.replaced(program=program, runtime=runtime))


def test_delegates_that_are_known(document) -> None:
    text = shown(document, "litert", "XNNPACK", "XNNPACK")
    assert "13 int8 and 2 float in 2 delegate subgraphs, 4 outside" in text
    assert "STRIDED_SLICE" in text


@pytest.mark.parametrize("is_delegated", [True, False])
def test_delegates_that_are_unknown(document, is_delegated) -> None:
    """No kernel can be called slow, or outside."""
    text = shown(document, "tflite", is_delegated=is_delegated)
    assert ("13 int8, 2 float" in text) == is_delegated
    assert "delegates on the device unknown" in " ".join(text.split())
    assert "STRIDED_SLICE" not in text
    assert "outside" not in text


def test_what_would_decide_an_open_budget(document) -> None:
    """Of a prediction and of a measurement, of latency and of memory."""
    for source, means in (("predicted", "--device"), ("measured", "--runs")):
        lines = [
            BudgetLine(
                name=name, value=5.0, unit=unit, limit=5.5, origin="flag", status="unknown",
                source=source, interval=(4.0, 6.0), note=NOTE if source == "predicted" else None,
            )
            for name, unit in (("latency_ms", "ms"), ("peak_memory_mb", "MB"))
        ]  # fmt: skip
        text = undecided(lines)
        assert text.count("undecided") == 2
        assert text.count(means) == 2
