"""A few inputs kept apart judge together with a cross-check of all calibration inputs."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgekit
from edgekit.documents.verdict import Rung, VerdictDocument

pytestmark = pytest.mark.runtime

RECIPE = """
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).eval()

def example_inputs():
    return (torch.zeros(1, 1, 8, 8),)

def calibration():
    torch.manual_seed(1)
    inputs = [torch.randn(1, 1, 8, 8) for _ in range(COUNT)]
    inputs[7] = FACTOR * inputs[7]
    return [(one,) for one in inputs]

def output_kinds():
    return ["values"]
"""


def build(write_recipe, folder: Path, count: int, factor: float) -> VerdictDocument:
    source = RECIPE.replace("COUNT", str(count)).replace("FACTOR", str(factor))
    return edgekit.build(
        write_recipe(source), target="x86", effort="quick", output=folder / "bundle"
    )


def int8(document: VerdictDocument) -> Rung:
    return next(rung for rung in document.ladder if rung.precision == "int8")


def test_an_input_like_no_other_is_found_by_the_cross_check(write_recipe, tmp_path) -> None:
    """It lies in the fitted part, so the four inputs kept apart pass; a new one like it would be
    cut off.
    """
    document = build(write_recipe, tmp_path, count=20, factor=8)
    rung = int8(document)
    assert not rung.taken
    assert "cross-checked on all 20" in (rung.judged_by or "")
    assert all(one.sqnr_db is not None and one.sqnr_db >= 20 for one in rung.fidelity)


def test_inputs_that_are_alike_pass(write_recipe, tmp_path) -> None:
    rung = int8(build(write_recipe, tmp_path, count=20, factor=1))
    assert rung.taken
    assert "cross-checked on all 20" in (rung.judged_by or "")


def test_many_inputs_judge_alone(write_recipe, tmp_path) -> None:
    rung = int8(build(write_recipe, tmp_path, count=60, factor=1))
    assert rung.taken
    assert "cross-checked" not in (rung.judged_by or "")
