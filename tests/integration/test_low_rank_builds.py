"""Layers factorized by flag: where it is faster, reported, and repeated by the plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import edgekit
from edgekit.errors import RuntimeFailure, SettingError
from edgekit.plan import Factors, LowRank, Plan

pytestmark = pytest.mark.runtime

WIDE = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 4),
    )
    with torch.no_grad():  # of rank 8, and a little noise
        low = torch.randn(256, 8) @ torch.randn(8, 256) / 40
        net[2].weight.copy_(low + 1e-3 * torch.randn(256, 256))
    return net

def example_inputs():
    return (torch.rand(1, 128),)

def calibration():
    torch.manual_seed(1)
    return [(torch.randn(1, 128),) for _ in range(40)]

def output_kinds():
    return ("values",)
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("wide") / "wide.py"
    path.write_text(WIDE)
    return path


def test_a_layer_of_low_rank_is_factorized_and_the_plan_repeats_it(
    recipe: Path, tmp_path: Path
) -> None:
    options = {"target": "x86", "precision": "fp32", "effort": "quick"}
    document = edgekit.build(recipe, low_rank=0.4, output=tmp_path / "first", **options)
    step = document.compression[0]
    assert step.name == "low_rank" and step.macs < 0.7 * step.macs_before
    assert step.factors == {"2": Factors(form="matrix", ranks=(32,))}
    assert step.sqnr_db is not None and step.sqnr_db > 20
    plan = document.plan.low_rank
    assert plan is not None and plan.ratio is None and plan.factors == step.factors
    assert {"2.0", "2.1"} <= {row.layer for row in document.program.layers}
    again = edgekit.build(recipe, target="x86", plan=document.plan, output=tmp_path / "second")
    first, second = (
        json.loads(Path(one.bundle, "manifest.json").read_bytes()) for one in (document, again)
    )
    assert first == second


def test_a_factor_may_stay_float(recipe: Path, tmp_path: Path) -> None:
    too_high = LowRank(factors={"2": Factors(form="matrix", ranks=(999,))})
    plan = Plan(precision="mixed", low_rank=too_high, float_layers=("2.1",))
    with pytest.raises(SettingError, match="999"):  # the name 2.1 is known
        edgekit.build(recipe, target="x86", plan=plan, output=tmp_path / "b")
    with pytest.raises(SettingError, match=r"0\.1"):
        wrong = plan.replaced(float_layers=("0.1",))
        edgekit.build(recipe, target="x86", plan=wrong, output=tmp_path / "b")


def test_what_cannot_be_factorized_says_so(recipe: Path, tmp_path: Path) -> None:
    def build(factors: dict[str, Factors]) -> None:
        plan = Plan(precision="fp32", low_rank=LowRank(factors=factors))
        edgekit.build(recipe, target="x86", plan=plan, output=tmp_path / "b", effort="quick")

    for factors, said in (
        ({"3": Factors(form="matrix", ranks=(8,))}, "3"),
        ({"2": Factors(form="spatial", ranks=(8,))}, "matrix"),
        ({"2": Factors(form="matrix", ranks=(257,))}, "256"),
    ):
        with pytest.raises(SettingError, match=said):
            build(factors)
    with pytest.raises(SettingError, match="at most"):
        edgekit.build(recipe, target="x86", low_rank=0.99, output=tmp_path / "b", effort="quick")
    narrow = tmp_path / "narrow.py"
    narrow.write_text(
        WIDE.replace("128", "4")
        .replace("256", "4")
        .replace("torch.randn(4, 8) @ torch.randn(8, 4)", "torch.randn(4, 4)")
    )
    with pytest.raises(RuntimeFailure, match="no layer"):
        edgekit.build(narrow, target="x86", low_rank=0.5, output=tmp_path / "b", effort="quick")
    assert not (tmp_path / "b").exists()
