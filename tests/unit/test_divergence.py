"""What is said of a float model's outputs: which axis is the batch, and where classes lie."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekit.compress.batches import batch_rows
from edgekit.compress.divergence import compared
from edgekit.pipeline.predict import run_eager
from edgekit.pipeline.subject import OutputsOfFloat


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


def profiled(model: nn.Module, data, kinds=None):
    with torch.random.fork_rng():
        return OutputsOfFloat(model, data[0], data, ["output"], kinds).fidelity


def test_an_axis_as_long_as_the_input_is_no_batch_unless_the_model_batches() -> None:
    data = inputs(4)
    model = Located()
    fidelity = profiled(model, data)
    floats = [run_eager(model)(one) for one in data]
    rounded = [[(tensor / 2.5).round() * 2.5 for tensor in one] for one in floats]
    found = compared(fidelity, rounded, floats)
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
