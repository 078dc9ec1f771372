"""What is said of a float model's outputs: which axis is the batch, and where classes lie."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekit.compress.batches import batch_rows
from edgekit.compress.divergence import compare_outputs, profile_outputs
from edgekit.fidelity.comparison import NO_HINTS, OutputHints
from edgekit.pipeline.model.predict import run_eager
from edgekit.pipeline.model.subject import OutputsOfFloat, read_subject
from edgekit.progress import Silent
from edgekit.recipe.recipe import open_recipe


def inputs(*shape: int, count: int = 12):
    random = torch.Generator().manual_seed(1)
    return [(torch.randn(shape, generator=random),) for _ in range(count)]


class Located(nn.Module):
    """Three coordinates of up to 640 and a score, of one vector without a batch axis."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x) * torch.tensor([640.0, 640.0, 640.0, 1.0])


def profiled(model: nn.Module, data, hints=NO_HINTS):
    return OutputsOfFloat(model, data[0], data, ["output"], hints).fidelity


def test_an_axis_as_long_as_the_input_is_no_batch_unless_the_model_batches() -> None:
    data = inputs(4)
    model = Located()
    fidelity = profiled(model, data)
    floats = [run_eager(model)(one) for one in data]
    rounded = [[(tensor / 2.5).round() * 2.5 for tensor in one] for one in floats]
    found = compare_outputs(fidelity, rounded, floats)
    assert not fidelity.outputs[0].batched
    assert found.loss == 100
    worst = found.findings[0].worst_group
    assert (worst.axis, worst.index) == (0, 3)


@pytest.mark.parametrize(
    "shape, batched", [((1, 3, 8, 8), True), ((4, 3, 8, 8), True), ((3, 8, 8), False)]
)
def test_a_batch_is_what_the_model_takes_as_one(shape, batched) -> None:
    """An image without batch axis has channels first, as many as there are results."""
    model = nn.Conv2d(3, 3, 3)
    assert profiled(model, inputs(*shape)).outputs[0].batched == batched
    assert profiled(model, inputs(*shape, count=1)).outputs[0].batched == batched


def test_rows_are_known_where_the_model_batches() -> None:
    run = run_eager(nn.Linear(4, 4))
    assert batch_rows(run, inputs(1, 4)) == 1
    assert batch_rows(run, inputs(6, 4)) == 6
    assert batch_rows(run, inputs(4)) is None


@pytest.mark.parametrize(
    "hints, agreement",
    [(OutputHints(("classes",), class_axis=1), 0), (OutputHints(("classes",)), 100 / 3)],
)
def test_classes_lie_where_the_loss_takes_them(hints, agreement) -> None:
    """Cross-entropy of (N, classes, length): the first and the last class exchanged everywhere."""
    floats = [[tensor + torch.tensor([[9.0], [0], [0]])] for (tensor,) in inputs(1, 3, 40)]
    places = [[tensor.flip(1) for tensor in one] for one in floats]
    found = compare_outputs(profile_outputs(floats, 1, hints=hints), places, floats)
    assert found.agreement == pytest.approx(agreement)


SEGMENTS = """
import torch

def model():
    return torch.nn.Conv1d(2, 3, 5)

def example_inputs():
    return (torch.ones(1, 2, 40),)
"""


@pytest.mark.parametrize(
    "more, hints",
    [
        ("", OutputHints()),
        ("def training(): yield", OutputHints(("classes",), class_axis=1)),
        ("def training(): yield\ndef loss(output, target): return output.sum()", OutputHints()),
        ("def output_kinds(): return ['classes']", OutputHints(("classes",))),
    ],
)
def test_a_recipe_tells_by_its_training_or_in_words(tmp_path, more, hints) -> None:
    (tmp_path / "recipe.py").write_text(f"{SEGMENTS}\n{more}\n")
    with open_recipe(tmp_path / "recipe.py", 0) as recipe:
        output = read_subject(recipe, False, Silent()).fidelity.outputs[0]
    assert (output.kind, output.assumed) == ((hints.kinds or ("values",))[0], hints.kinds is None)
    assert output.class_axis == (hints.class_axis or 2)


def test_what_is_told_is_kept_for_smaller_models() -> None:
    hints = OutputHints(("classes", "values"), class_axis=1)
    floats = [[torch.randn(1, 3, 4), torch.randn(1, 2)] for _ in range(4)]
    assert profile_outputs(floats, 1, hints=hints).hints == hints
