"""Pruned by flags: channels go, training recovers, and the plan does it again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import DIGITS, empty_cache

import edgekit
from edgekit.errors import RecipeError, SettingError
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
    assert trained.accuracy > pruned.accuracy + 5
    assert document.accuracy.fp32 > 98, "against the recipe's own model"
    assert "MACs of" in render_explanation(document)
    empty_cache(tmp_path_factory.mktemp("cache"), monkeypatch)
    again = build(DIGITS, tmp_path / "again", plan=tmp_path / "first" / "manifest.json")
    assert again.plan == document.plan
    assert manifest(tmp_path / "again") == manifest(tmp_path / "first")


def test_without_labels_the_original_teaches(digits, tmp_path: Path) -> None:
    document = build(digits(gone="training"), tmp_path / "b", prune=0.3, effort="quick")
    assert document.plan["recover"]["objective"] == "float_model"
    pruned, trained = document.compression
    assert trained.accuracy >= pruned.accuracy


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
    assert document.plan["recover"]["objective"] == "both"
    (trained,) = document.compression
    assert trained.accuracy > document.accuracy.fp32 + 20


def test_a_teacher_of_another_form_is_refused(digits, tmp_path: Path) -> None:
    wrong = "def teacher():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))"
    with pytest.raises(RecipeError, match="teacher"):
        build(digits(wrong), tmp_path / "b", prune=0.3, distill=True)


def test_a_share_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="between 0 and 1"):
        build(DIGITS, tmp_path / "b", prune=1.5)
    with pytest.raises(SettingError, match="at most"):
        build(DIGITS, tmp_path / "b", prune=0.97)
