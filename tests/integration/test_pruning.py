"""Pruned by flags: channels go, training recovers, and the plan does it again."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import DIGITS, empty_cache

import edgekit
from edgekit.errors import RecipeError, RuntimeFailure, SettingError
from edgekit.pipeline.shrink import shrink
from edgekit.plan import Plan, Prune, Sparsity, Training
from edgekit.report.explanation import render_explanation

pytestmark = pytest.mark.runtime


def build(recipe: Path, output: Path, **options):
    return edgekit.build(recipe, target="x86", output=output, **options)


def manifest(bundle: Path) -> dict:
    return json.loads((bundle / "manifest.json").read_bytes())


@pytest.fixture
def digits(tmp_path: Path):
    """The digits recipe with something added or taken away."""
    copied = tmp_path / "digits.pt"
    copied.write_bytes(DIGITS.with_name("digits.pt").read_bytes())

    def write(change: str = "", gone: str = "") -> Path:
        source = DIGITS.read_text()
        if gone:
            source = source.replace(f"def {gone}(", f"def unused_{gone}(")
        path = tmp_path / "recipe.py"
        path.write_text(f"{source}\n{change}\n")
        return path

    return write


def test_half_of_the_macs_go_and_training_recovers(
    tmp_path: Path, tmp_path_factory, monkeypatch
) -> None:
    document = build(DIGITS, tmp_path / "first", prune=0.5, effort="quick")
    pruned, trained = document.compression
    assert 0.3 < pruned.macs / pruned.macs_before <= 0.5
    assert pruned.parameters < pruned.parameters_before
    assert (pruned.precision, trained.precision) == ("int8", "int8")
    assert pruned.model_mb < pruned.model_before_mb
    assert pruned.latency_ratio is not None and pruned.peak_memory_mb is not None
    assert not pruned.refused, "a head's channels are no refusal"
    assert trained.accuracy > 90 > pruned.accuracy, "what labels train is not made good before"
    assert document.accuracy.fp32 > 98, "against the recipe's own model"
    assert "MACs of" in render_explanation(document)
    empty_cache(tmp_path_factory.mktemp("cache"), monkeypatch)
    again = build(DIGITS, tmp_path / "again", plan=tmp_path / "first" / "manifest.json")
    assert again.plan == document.plan
    assert manifest(tmp_path / "again") == manifest(tmp_path / "first")


def test_without_labels_the_original_teaches(digits, tmp_path: Path) -> None:
    document = build(digits(gone="training"), tmp_path / "b", prune=0.3, effort="quick")
    assert document.plan.recover.objective == "float_model"
    assert document.plan.recover.features == 1
    pruned, trained = document.compression
    assert pruned.accuracy > 80, "the weights that stay took over what went"
    assert trained.sqnr_db > pruned.sqnr_db, "on calibration inputs that nothing was fitted to"
    assert trained.accuracy > 80


def test_what_judges_a_training_was_not_fitted_before(digits, tmp_path: Path, monkeypatch) -> None:
    """Else the refitted model looks perfect, and no step of the training better than none."""
    seen: dict[str, list] = {"fitted": [], "judging": []}
    refit, recover = shrink.compensate, shrink.recover

    def compensating(before, after, lost, example, data, *others):
        seen["fitted"] += [row for (batch,) in data for row in batch]
        refit(before, after, lost, example, data, *others)

    def recovering(model, subject, *others):
        seen["judging"] += [row for (batch,) in subject.for_training[1] for row in batch]
        return recover(model, subject, *others)

    monkeypatch.setattr(shrink, "compensate", compensating)
    monkeypatch.setattr(shrink, "recover", recovering)
    plan = Plan(
        precision="fp32",
        prune=Prune(ratio=0.3, importance="l2"),
        recover=Training(objective="float_model", steps=2, learning_rate=1e-3),
    )
    build(digits(gone="training"), tmp_path / "bundle", plan=plan)
    assert len(seen["fitted"]) > len(seen["judging"]) > 5
    assert not any(a.equal(b) for a in seen["fitted"] for b in seen["judging"])


def test_without_a_metric_steps_are_held_against_the_original(digits, tmp_path: Path) -> None:
    document = build(digits(gone="evaluate"), tmp_path / "b", prune=0.3, effort="quick")
    pruned, trained = document.compression
    assert pruned.accuracy is None
    assert 20 < pruned.agreement < trained.agreement <= 100
    assert "top-1 agreement with the original" in render_explanation(document)


def test_a_label_that_is_wrong_late_is_told_before_anything_runs(digits, tmp_path: Path) -> None:
    wrong = """
def training():
    images, labels = train_part()
    for number in range(5):
        yield (images[:64],), labels[:64] + (10 if number == 3 else 0)
"""
    with pytest.raises(RecipeError, match=r"labels from 10 to 19.*batch 3"):
        build(digits(wrong), tmp_path / "b", prune=0.3)
    assert not (tmp_path / "b").exists()


def test_a_student_is_trained_towards_its_teacher(digits, tmp_path: Path) -> None:
    student = """
_teacher = model

def teacher():
    return _teacher()

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
"""
    document = build(digits(student), tmp_path / "b", distill=True, effort="quick", max_drop=100)
    assert document.plan.recover.objective == "both"
    (trained,) = document.compression
    assert trained.accuracy > document.accuracy.fp32 + 20


def test_a_teacher_of_another_form_is_refused(digits, tmp_path: Path) -> None:
    wrong = "def teacher():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))"
    with pytest.raises(RecipeError, match="teacher"):
        build(digits(wrong), tmp_path / "b", prune=0.3, distill=True)


def test_zeros_by_flag_pack_smaller_and_stay_through_training_and_rounding(
    tmp_path: Path, tmp_path_factory, monkeypatch
) -> None:
    dense = build(DIGITS, tmp_path / "dense", effort="quick")
    document = build(DIGITS, tmp_path / "first", sparsity=0.7, effort="quick")
    zeros, trained = document.compression
    assert [step.name for step in document.compression] == ["sparsify", "recover"]
    assert zeros.zeros == pytest.approx(0.7, abs=0.01)
    assert trained.zeros == pytest.approx(0.7, abs=0.01), "training keeps them"
    assert zeros.macs == zeros.macs_before
    assert trained.compressed_mb < 0.85 * trained.compressed_before_mb
    assert trained.accuracy > zeros.accuracy
    assert "70% of the weights are zero" in render_explanation(document)
    repaired = document.plan.replaced(round=True, precision="int8")
    build(DIGITS, tmp_path / "rounded", plan=repaired)
    for bundle in ("first", "rounded"):
        packed = packed_size(tmp_path / bundle / "model.pte")
        assert packed < 0.85 * packed_size(tmp_path / "dense" / "model.pte"), dense.plan
    empty_cache(tmp_path_factory.mktemp("cache"), monkeypatch)
    build(DIGITS, tmp_path / "again", plan=tmp_path / "first" / "manifest.json")
    assert manifest(tmp_path / "again") == manifest(tmp_path / "first")


def packed_size(path: Path) -> int:
    return len(gzip.compress(path.read_bytes()))


def test_zeros_that_buy_nothing_are_not_applied_under_auto(digits, tmp_path: Path) -> None:
    recipe = digits(gone="training")
    document = build(recipe, tmp_path / "auto", sparsity=0.005, effort="quick")
    assert document.plan.sparsity is None
    (step,) = [step for step in document.compression if step.name == "sparsify"]
    assert step.zeros < 0.001
    assert "zeros are not applied" in render_explanation(document)
    asked = build(recipe, tmp_path / "int8", sparsity=0.005, effort="quick", precision="int8")
    assert asked.plan.sparsity.ratio == 0.005


def test_a_plan_in_rounds_trains_between_them(
    tmp_path: Path, tmp_path_factory, monkeypatch
) -> None:
    between = (Training(objective="both", steps=20, learning_rate=0.02, features=1.0),)
    plan = Plan(
        precision="fp32",
        prune=Prune(ratio=0.5, between=between),
        sparsity=Sparsity(ratio=0.5, between=between),
        recover=Training(objective="labels", steps=40, learning_rate=0.02),
    )
    document = build(DIGITS, tmp_path / "first", plan=plan)
    names = [step.name for step in document.compression]
    assert names == ["prune", "recover", "prune", "sparsify", "recover", "sparsify", "recover"]
    macs = [step.macs / step.macs_before for step in document.compression]
    assert macs[2] <= 0.5 < macs[0] <= 0.75
    assert document.compression[-1].zeros == pytest.approx(0.5, abs=0.01)
    assert document.plan.prune.between[0].stop == 20
    empty_cache(tmp_path_factory.mktemp("cache"), monkeypatch)
    build(DIGITS, tmp_path / "again", plan=tmp_path / "first" / "manifest.json")
    assert manifest(tmp_path / "again") == manifest(tmp_path / "first")


def test_ctrl_c_ends_the_training_and_the_build_goes_on(tmp_path: Path, fresh_cache) -> None:
    command = [sys.executable, "-m", "edgekit", "build", str(DIGITS), "--target", "x86", "--json"]
    options = ["--prune", "0.5", "--effort", "thorough", "--precision", "fp32"]
    process = subprocess.Popen(
        [*command, *options, "--output", str(tmp_path / "out")],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    for line in process.stderr:
        if "training the smaller model:" in line:
            break
    assert "left, loss" in line, "how long it takes, and how it stands"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, rest = process.communicate(timeout=120)
    assert process.returncode == 0, rest
    assert "stopped at step" in rest
    document = json.loads(out)
    assert 0 < document["plan"]["recover"]["stop"] < document["plan"]["recover"]["steps"] == 2000


def test_what_has_nothing_to_prune_says_why(tmp_path: Path) -> None:
    recipe = tmp_path / "lstm.py"
    recipe.write_text(LSTM)
    with pytest.raises(RuntimeFailure, match="recurrent layers are not pruned"):
        build(recipe, tmp_path / "b", prune=0.5)


def test_heads_of_an_attention_go_without_labels(tmp_path: Path) -> None:
    recipe = tmp_path / "block.py"
    folder = Path(__file__).resolve().parents[1] / "doubles"
    recipe.write_text(BLOCK.format(folder=str(folder)))
    document = build(recipe, tmp_path / "b", prune=0.4, effort="quick", precision="int8")
    assert document.parity.passed
    assert document.plan.recover.objective == "float_model"
    assert document.compression[0].macs < 0.6 * document.compression[0].macs_before


LSTM = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])

def model():
    torch.manual_seed(0)
    return Net()

def example_inputs():
    return (torch.randn(1, 6, 8),)

def calibration():
    return ((torch.randn(1, 6, 8),) for _ in range(16))
"""
BLOCK = """
import sys
sys.path.insert(0, {folder!r})
import torch
from attention import LENGTH, WIDTH, Block

def model():
    return Block()

def example_inputs():
    return (torch.randn(1, LENGTH, WIDTH),)

def calibration():
    return ((torch.randn(1, LENGTH, WIDTH),) for _ in range(24))
"""


def test_a_share_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="between 0 and 1"):
        build(DIGITS, tmp_path / "b", prune=1.5)
    with pytest.raises(SettingError, match=r"sparsity .* between 0 and 1.* not 1"):
        build(DIGITS, tmp_path / "b", sparsity=1.0)
    with pytest.raises(SettingError, match="at most"):
        build(DIGITS, tmp_path / "b", prune=0.97)
