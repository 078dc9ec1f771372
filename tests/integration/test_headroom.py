"""Outputs of a model that is calibrated on few inputs: room for what nobody has seen."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from edgekit.compress.divergence import arrays, profile_outputs
from edgekit.compress.quantization.apply_plan import as_calibrated
from edgekit.compress.quantization.headroom import FEW, give_headroom
from edgekit.compress.quantization.simulate import Simulation, everywhere
from edgekit.plan import Plan
from edgekit.progress import Silent
from edgekit.recipe.tensors import Inputs
from edgekit.runtimes.executorch.runtime import ExecuTorch
from edgekit.runtimes.quiet import quiet

pytestmark = pytest.mark.runtime


class Scores(nn.Module):
    """Few output values, each of which is a mean of many: their extremes are rare."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.features = nn.Conv1d(1, 32, 16, 8)
        self.head = nn.Linear(32, 4)
        self.last = last

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.last(self.head(torch.relu(self.features(wave)).mean(2)))
        return scores


def waves(count: int) -> list[Inputs]:
    return [(torch.randn(1, 1, 400) * (0.5 + torch.rand(())),) for _ in range(count)]


def calibrated(model: nn.Module, data: list[Inputs]) -> Simulation:
    plan = Plan(precision="int8", structure="")
    with quiet(), torch.no_grad():
        prepared = ExecuTorch().pt2e.prepare(model, data[0], plan, data)
        ExecuTorch().pt2e.calibrate(prepared, data, Silent())
        return as_calibrated(prepared)


def sqnr_db(model: nn.Module, simulation: Simulation, data: list[Inputs]) -> float:
    with torch.no_grad(), simulation.rounding(everywhere):
        floats = [(model(*inputs),) for inputs in data]
        found = profile_outputs(floats, 1, ["scores"]).start()
        for outputs, wanted in zip(simulation.run(data), floats, strict=True):
            found.add(arrays(tuple(outputs)), arrays(wanted))
    value = found.findings[0].sqnr_db
    assert value is not None
    return value


def test_unseen_inputs_are_not_cut_off():
    gained = []
    for seed in range(4):
        torch.manual_seed(seed)
        model = Scores(nn.Identity()).eval()
        plain = calibrated(model, waves(16))
        with quiet():
            roomy = copy.deepcopy(plain)
        assert give_headroom(roomy, 16)
        unseen = waves(200)
        gained.append(sqnr_db(model, roomy, unseen) - sqnr_db(model, plain, unseen))
    assert min(gained) > -0.5  # where nothing was cut off, wider steps cost little
    assert sum(gained) / len(gained) > 1


@pytest.mark.parametrize(("last", "inputs"), [(nn.Identity(), FEW), (nn.Softmax(1), 16)])
def test_what_needs_no_room_keeps_its_steps(last, inputs):
    torch.manual_seed(0)
    simulation = calibrated(Scores(last).eval(), waves(16))
    assert not give_headroom(simulation, inputs)


class Restacked(nn.Module):
    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        return torch.stack(scores.chunk(2, 1)).float()


@pytest.mark.parametrize("last", [nn.Unflatten(1, (2, 2)), Restacked()])
def test_room_reaches_through_what_only_moves_values(last):
    torch.manual_seed(0)
    simulation = calibrated(Scores(last).eval(), waves(16))
    assert give_headroom(simulation, 16)
