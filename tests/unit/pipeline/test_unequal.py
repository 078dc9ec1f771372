"""Which hint an artifact gets that failed parity."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekit.pipeline.precision.parity_hints import why_unequal


class Running(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("past", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.past += 1
        return x + self.past


class Noisy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


@pytest.mark.parametrize(
    ("model", "dtype", "precision", "expected"),
    [
        (nn.Sequential(nn.Linear(4, 4), Running()), torch.float32, "fp32", "1.past"),
        (Noisy(), torch.float32, "int8", "random"),
        (nn.Sequential(nn.Linear(4, 256), nn.LayerNorm(256)).half(), torch.float16, "fp32", "(1)"),
        (nn.Sequential(nn.Linear(4, 255), nn.LayerNorm(255)).half(), torch.float16, "fp32", "form"),
        (nn.Linear(4, 4), torch.float32, "int8", "--precision"),
        (nn.Linear(4, 4), torch.float32, "fp32", "the runtime's developers"),
    ],
)
def test_each_cause_has_its_hint(model, dtype, precision, expected) -> None:
    x = torch.rand(2, 4, dtype=dtype)
    assert expected in why_unequal(model.eval(), (x,), precision)


def test_the_model_stays_as_it_is() -> None:
    model = Running()
    why_unequal(model, (torch.rand(1),), "fp32")
    assert model.past.item() == 0
