"""Int8 trained with its rounding in place: taken where it is better, and made again to the byte."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import empty_cache

import edgekit
from edgekit.cache import cache_folder
from edgekit.errors import RecipeError, SettingError
from edgekit.plan import Plan
from edgekit.progress import Silent, Stage

pytestmark = pytest.mark.runtime

# Four classes of stripes; the trained weights are poor on purpose, so that training can help.
STRIPES = """
import torch
from torch import nn

def model():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4),
    )

def images(count, seed):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=draw)
    stripes = torch.stack([torch.eye(4)[i % 4].repeat(2).expand(8, 8) for i in labels.tolist()])
    return stripes[:, None] + 0.6 * torch.randn(count, 1, 8, 8, generator=draw), labels

def example_inputs():
    return (images(1, 0)[0],)

def calibration():
    return [(image[None],) for image in images(32, 1)[0]]

def evaluate(predict):
    x, y = images(400, 2)
    return 100 * float((predict(x).argmax(1) == y).float().mean())

def training():
    x, y = images(640, 4)
    for part in torch.randperm(640).split(32):
        yield (x[part],), y[part]
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "stripes.py"
    path.write_text(STRIPES)
    return path


def build(recipe: Path, output: Path, **options):
    return edgekit.build(recipe, target="x86", output=output, **options)


def manifest(bundle: Path) -> dict:
    return json.loads((bundle / "manifest.json").read_bytes())


class KilledAt(Silent):
    """Progress that a process ends in, at a step of its training."""

    def __init__(self, step: int) -> None:
        self.step = step

    @contextmanager
    def stage(self, title: str) -> Iterator[Stage]:
        yield self if "training" in title else Silent()

    def advance(self, done: int, total: int) -> None:
        if done == self.step:
            raise KeyboardInterrupt


def test_trained_int8_is_better_and_its_plan_makes_the_same_bytes(
    recipe: Path, tmp_path: Path, tmp_path_factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = build(recipe, tmp_path / "plain", precision="int8")
    document = build(recipe, tmp_path / "first", precision="int8", qat=True)
    assert document.accuracy.artifact > plain.accuracy.artifact + 20
    assert document.ladder[-1].precision == "int8 trained"
    assert document.plan.train.stop > 0
    empty_cache(tmp_path_factory.mktemp("cache"), monkeypatch)
    again = build(recipe, tmp_path / "again", plan=tmp_path / "first" / "manifest.json")
    assert again.plan == document.plan
    assert manifest(tmp_path / "again") == manifest(tmp_path / "first")


def test_killed_in_the_middle_it_goes_on_to_the_same_bytes(
    recipe: Path, tmp_path: Path, tmp_path_factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"precision": "int8", "qat": True, "effort": "quick"}
    build(recipe, tmp_path / "whole", **options)
    empty_cache(tmp_path_factory.mktemp("cache"), monkeypatch)
    monkeypatch.setattr("edgekit.compress.training.loop.SAVE_EVERY_S", -1.0)
    with pytest.raises(KeyboardInterrupt):
        build(recipe, tmp_path / "resumed", progress=KilledAt(53), **options)
    assert not (tmp_path / "resumed").exists()
    (checkpoint,) = (cache_folder() / "stages").glob(".trained-*/checkpoint.safetensors")
    began = KilledAt(40)  # it must not pass there again
    build(recipe, tmp_path / "resumed", progress=began, **options)
    assert manifest(tmp_path / "resumed") == manifest(tmp_path / "whole")
    assert not checkpoint.exists()


def test_training_that_makes_nothing_better_is_not_taken(recipe: Path, tmp_path: Path) -> None:
    wrong = "return -torch.nn.functional.cross_entropy(output, target)"
    recipe.write_text(f"{STRIPES}\ndef loss(output, target):\n    {wrong}\n")
    document = build(recipe, tmp_path / "b", precision="int8", qat=True, effort="quick")
    tried = {rung.precision: rung for rung in document.ladder}
    assert not tried["int8 trained"].taken
    assert tried["int8"].taken
    assert document.plan.train is None


def test_distillation_needs_no_labels(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(STRIPES.replace("def training(", "def unused("))
    training = {"objective": "float_model", "steps": 60, "learning_rate": 3e-3, "stop": 60}
    plan = {"precision": "int8", "observer": "percentile", "train": training}
    document = build(recipe, tmp_path / "b", plan=Plan.model_validate(plan))
    untrained = Plan.model_validate({**plan, "train": None})
    before = build(recipe, tmp_path / "untrained", plan=untrained)
    assert document.parity.float_model.sqnr_db != before.parity.float_model.sqnr_db
    assert document.parity.float_model.sqnr_db > 20


def test_without_evaluate_the_loss_on_data_kept_apart_decides(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(STRIPES.replace("def evaluate(", "def unused("))
    document = build(recipe, tmp_path / "b", qat=True, max_drop=50)
    tried = [(rung.precision, rung.taken) for rung in document.ladder]
    assert tried == [("int8", False), ("int8 trained", True)]
    assert "held-out loss" in document.ladder[-1].reason


def test_a_good_int8_is_not_lost_to_a_training_that_is_worse(recipe: Path, tmp_path: Path) -> None:
    wrong = "return torch.nn.functional.cross_entropy(output, 3 - target)"
    recipe.write_text(f"{STRIPES}\ndef loss(output, target):\n    {wrong}\n")
    document = build(recipe, tmp_path / "b", qat=True, max_drop=5)
    assert [(rung.precision, rung.taken) for rung in document.ladder] == [
        ("int8 trained", False),
        ("int8", True),
    ]


def test_other_training_data_are_trained_on_anew(recipe: Path, tmp_path: Path) -> None:
    """The recipe is the same; what it reads is not."""
    data = tmp_path / "flip.txt"
    data.write_text("0")
    reading = "    y = (y + int(Path(__file__).with_name('flip.txt').read_text())) % 4\n"
    marker = "    x, y = images(640, 4)\n"
    source = STRIPES.replace(marker, marker + reading)
    recipe.write_text(f"from pathlib import Path\n{source}")
    options = {"precision": "int8", "qat": True, "effort": "quick"}
    first = build(recipe, tmp_path / "first", **options)
    data.write_text("1")
    second = build(recipe, tmp_path / "second", **options)
    assert first.plan.train is not None
    assert second.accuracy.artifact < first.accuracy.artifact - 10


def test_a_limit_cuts_training_and_is_forgotten_with_the_next_build(
    recipe: Path, tmp_path: Path
) -> None:
    options = {"precision": "int8", "qat": True}
    short = build(recipe, tmp_path / "short", time_limit_s=0.5, **options)
    long = build(recipe, tmp_path / "long", **options)
    if short.plan.train is not None:
        assert short.plan.train.steps < long.plan.train.steps
    assert long.plan.train.steps == 400
    again = build(recipe, tmp_path / "again", plan=tmp_path / "short" / "manifest.json")
    assert again.plan == short.plan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training = None", "has no training"),
        ("def training():\n    return []", "training() yielded nothing"),
        ("def training():\n    yield images(4, 1)[0]", "must be a pair (inputs, target)"),
        (
            "def training():\n    yield (images(4, 1)[0][..., :7],), images(4, 1)[1]",
            "training() item 0 has the inputs float32 [4, 1, 8, 7]",
        ),
        (
            "def training():\n    yield (images(4, 1)[0],), images(4, 1)[1] + 2",
            "but the model has 4 classes, 0 to 3",
        ),
        ("def loss(output, target):\n    return output", "must return a tensor of one number"),
        ("def loss(output, target):\n    return output.sum() / 0", "first training batch is"),
        (
            "def loss(output, target):\n    return (output.argmax(1) != target).float().mean()",
            "gradient",
        ),
        ("calibration = None", "has no calibration"),
    ],
)
def test_training_data_that_cannot_work_are_told_before_anything_runs(
    recipe: Path, tmp_path: Path, change: str, message: str
) -> None:
    recipe.write_text(f"{STRIPES}\n{change}\n")
    with pytest.raises(RecipeError) as error:
        build(recipe, tmp_path / "b", qat=True)
    assert message in str(error.value)


def test_qat_has_nothing_to_train_in_fp32_and_a_plan_says_it_itself(
    recipe: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match="fp32"):
        build(recipe, tmp_path / "b", qat=True, precision="fp32")
    with pytest.raises(SettingError, match="plan"):
        build(recipe, tmp_path / "b", qat=True, plan=Plan(precision="int8"))


def test_a_teacher_stands_beside_the_labels_of_int8(recipe: Path, tmp_path: Path) -> None:
    document = build(
        recipe, tmp_path / "b", precision="int8", qat=True, distill=True, effort="quick"
    )
    assert document.ladder[-1].precision == "int8 trained"
    assert document.plan.train.objective == "both"
