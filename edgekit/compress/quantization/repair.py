"""A plan's quantization, step by step: prepared graph in, a simulation with all its steps out."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule

from edgekit.compress.quantization.affine import Steps
from edgekit.compress.quantization.correct import correct
from edgekit.compress.quantization.equalize import equalize
from edgekit.compress.quantization.headroom import give_headroom
from edgekit.compress.quantization.limits import StepLimits, keep_within
from edgekit.compress.quantization.lockstep import Layer, walk
from edgekit.compress.quantization.observe import (
    Seen,
    set_activation_steps,
    set_weight_steps,
    watch,
)
from edgekit.compress.quantization.rounding import round_weights
from edgekit.compress.quantization.simulate import Simulation, everywhere
from edgekit.plan import Observer, Plan
from edgekit.progress import Progress
from edgekit.recipe.tensors import Inputs


@dataclass(frozen=True)
class Observed:
    """A float model, its channels equalized or not, and what its values were seen to be."""

    simulation: Simulation
    seen: dict[str, Seen]


def repaired(
    prepared: GraphModule,
    data: Sequence[Inputs],
    plan: Plan,
    limits: StepLimits,
    progress: Progress,
) -> Simulation:
    """Do what the plan says, on ``data``, inside the runtime's limits; ``prepared`` stays as it is.
    Equal plans and data give equal weights and steps. Raises RecipeError: a value is NaN or
    infinite.
    """
    with progress.stage("choosing ranges"):
        found = observed(prepared, data)
        if plan.equalize is not None:
            found = equalized(found, data, plan.equalize)
        simulation = ranged(found, plan.observer, limits, len(data))
    return corrected(simulation, data, plan, limits, progress)


def observed(prepared: GraphModule, data: Sequence[Inputs]) -> Observed:
    simulation = Simulation(prepared)
    return Observed(simulation, watch(simulation, data))


def equalized(found: Observed, data: Sequence[Inputs], share: float) -> Observed:
    """``found`` stays as it is."""
    simulation = copy.deepcopy(found.simulation)
    if not equalize(simulation, found.seen, share):
        return found
    return Observed(simulation, watch(simulation, data))


def ranged(found: Observed, observer: Observer, limits: StepLimits, inputs: int) -> Simulation:
    """With steps for weights and activations, for a model that is calibrated on so many
    ``inputs``; ``found`` stays as it is.
    """
    simulation = copy.deepcopy(found.simulation)
    set_weight_steps(simulation)
    set_activation_steps(simulation, found.seen, observer)
    settle(simulation, limits, inputs)
    return simulation


def settle(simulation: Simulation, limits: StepLimits, inputs: int) -> frozenset[str]:
    """What calibration alone does not see to; give the points that were changed."""
    widened = give_headroom(simulation, inputs)
    return widened | keep_within(simulation, limits)


def corrected(
    simulation: Simulation,
    data: Sequence[Inputs],
    plan: Plan,
    limits: StepLimits,
    progress: Progress,
) -> Simulation:
    """Learned rounding and corrections, in place, where the plan has them."""
    if plan.round or plan.correct:
        _mend(simulation, data, plan, progress)
        keep_within(simulation, limits)
    return simulation


def _mend(simulation: Simulation, data: Sequence[Inputs], plan: Plan, progress: Progress) -> None:
    total = sum(point.kind == "weights" for point in simulation.points.values())
    with progress.stage("mending layer by layer") as stage:
        done = 0

        def mend(layer: Layer) -> None:
            nonlocal done
            if plan.round:
                round_weights(layer)
            if plan.correct:
                correct(layer)
            done += 1
            stage.advance(done, total)

        with simulation.rounding(everywhere):
            walk(simulation, data, mend)


def as_calibrated(prepared: GraphModule) -> Simulation:
    """The simulation of a graph whose own observers were calibrated."""
    simulation = Simulation(prepared)
    for name, point in simulation.points.items():
        observer: Any = getattr(prepared, name)
        scale, zero_point = observer.calculate_qparams()
        if point.axis is None:
            scale, zero_point = scale.reshape(()), zero_point.reshape(())
        steps = Steps(scale.float(), zero_point.to(torch.int32), point.grid, point.axis)
        simulation.roundings[name].steps = steps
    return simulation


def impose(simulation: Simulation, prepared: GraphModule) -> None:
    """Give the prepared graph the simulation's weights, and its observers their steps."""
    with torch.no_grad():
        for name, tensor in (*prepared.named_parameters(), *prepared.named_buffers()):
            found: Any = simulation.graph
            for part in name.split("."):
                found = getattr(found, part, None)
            if isinstance(found, torch.Tensor) and found.shape == tensor.shape:
                tensor.copy_(found)
    impose_steps(simulation, prepared, simulation.points)


def impose_steps(simulation: Simulation, prepared: GraphModule, names: Iterable[str]) -> None:
    """Give some of the prepared graph's observers the simulation's steps."""
    for name in names:
        steps = simulation.roundings[name].steps
        if steps is not None:
            observer: Any = getattr(prepared, name)
            observer.calculate_qparams = _Fixed(steps)


class _Fixed:
    """What an observer answers, whatever it saw."""

    def __init__(self, steps: Steps) -> None:
        self.answer = steps.scale.reshape(-1), steps.zero_point.reshape(-1)

    def __call__(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.answer
