"""Half precision with the real runtime: what a build gives, and what parity refuses."""

from __future__ import annotations

import json

import pytest
from models import NORMALIZED, SMALL_CNN

import edgekit
from edgekit.compress import half_precision
from edgekit.errors import ParityError
from edgekit.plan import read_plan
from edgekit.runtimes.executorch.half_precision import program

pytestmark = pytest.mark.runtime


def test_a_cnn_is_half_as_large_and_needs_no_kernels(write_recipe, tmp_path) -> None:
    recipe = write_recipe(SMALL_CNN)
    document = edgekit.build(recipe, target="x86", precision="fp16", output=tmp_path / "fp16")
    floating = edgekit.build(recipe, target="x86", precision="fp32", output=tmp_path / "fp32")
    assert document.plan.precision == "fp16"
    assert document.parity.passed
    assert document.parity.sqnr_db > 40
    assert document.program.libraries == floating.program.libraries
    sizes = [(tmp_path / name / "model.pte").stat().st_size for name in ("fp16", "fp32")]
    assert sizes[0] < 0.6 * sizes[1]
    assert document.program.inputs == floating.program.inputs
    assert document.program.outputs == floating.program.outputs


@pytest.fixture(scope="module")
def transformer(tmp_path_factory):
    path = tmp_path_factory.mktemp("transformer") / "recipe.py"
    path.write_text("import torch\nfrom torch import nn\n" + NORMALIZED)
    return path


def test_a_transformer_passes_parity_and_its_plan_repeats_it(transformer, tmp_path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    document = edgekit.build(
        transformer, target="x86", precision="fp16", effort="quick", output=first
    )
    assert document.parity.passed
    assert document.parity.sqnr_db > 40  # also with a mask of finfo.min
    plan = read_plan(first / "manifest.json")
    edgekit.build(transformer, target="x86", plan=plan, effort="quick", output=again)
    manifests = [json.loads((one / "manifest.json").read_bytes()) for one in (first, again)]
    assert manifests[0] == manifests[1]


def test_a_wrong_kernel_is_refused(transformer, tmp_path, monkeypatch, fresh_cache) -> None:
    """ExecuTorch 1.5.1 normalizes 256 channels and more wrongly in half precision."""
    monkeypatch.setattr(program, "COMPUTED", program.COMPUTED | {"layer_norm"})
    monkeypatch.setattr(half_precision, "LEAST_NUMBER", 0.0)  # its epsilon is smaller
    with pytest.raises(ParityError) as caught:
        edgekit.build(
            transformer, target="x86", precision="fp16", effort="quick", output=tmp_path / "out"
        )
    assert "25 dB" in caught.value.message
