"""What a verdict's text says of a program's operators."""

from __future__ import annotations

import pytest
from small_bundle import fill

from edgekit.bundle.read import open_bundle
from edgekit.bundle.verdict import verdict_document
from edgekit.program import LayerCount, OutsideOperator
from edgekit.report.verdict import render_verdict


@pytest.fixture
def document(tmp_path):
    fill(tmp_path / "bundle")
    manifest, record = open_bundle(tmp_path / "bundle")
    return verdict_document("edgekit.build/1", tmp_path / "bundle", manifest, record, {})


def shown(document, *delegates: str) -> str:
    program = document.program.replaced(
        layers=(LayerCount(layer="stem", quantized=13, floating=2),),
        outside=(OutsideOperator(operator="STRIDED_SLICE", layer="shortcut", count=4),),
        delegates=delegates,
    )
    return render_verdict(document.replaced(program=program))


def test_delegates_that_are_known(document) -> None:
    text = shown(document, "XNNPACK", "XNNPACK")
    assert "13 int8 and 2 float in 2 delegate subgraphs, 4 outside" in text
    assert "STRIDED_SLICE" in text


def test_delegates_that_are_unknown(document) -> None:
    """No kernel can be called slow, or outside."""
    text = shown(document)
    assert "13 int8, 2 float" in text
    assert "unknown" in text
    assert "STRIDED_SLICE" not in text
    assert "outside" not in text
