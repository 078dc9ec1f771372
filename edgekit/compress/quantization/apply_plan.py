"""A plan's quantization, step by step: from a prepared graph to a simulation with all steps."""

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
    ObservedValues,
    observe,
    set_activation_steps,
    set_weight_steps,
)
from edgekit.compress.quantization.rounding import round_weights
from edgekit.compress.quantization.simulate import Simulation, everywhere
from edgekit.plan import Observer, Plan
from edgekit.progress import Progress
from edgekit.recipe.tensors import Inputs


@dataclass(frozen=True)
class ObservedModel:
    """A float model, with equalized channels or not, and its observed values."""

    simulation: Simulation
    values: dict[str, ObservedValues]


def repair(
    prepared: GraphModule,
    data: Sequence[Inputs],
    plan: Plan,
    limits: StepLimits,
    progress: Progress,
) -> Simulation:
    """Apply the plan's repairs on ``data``, within the runtime's limits. ``prepared`` is unchanged.
    Equal plans and data give equal weights and steps.

    Raises RecipeError: a value is NaN or infinite.
    """
    with progress.stage("choosing ranges"):
        result = observe_model(prepared, data)
        if plan.equalize is not None:
            result = equalize_model(result, data, plan.equalize)
        simulation = choose_ranges(result, plan.observer, limits, len(data))
    return apply_corrections(simulation, data, plan, limits, progress)


def observe_model(prepared: GraphModule, data: Sequence[Inputs]) -> ObservedModel:
    simulation = Simulation(prepared)
    return ObservedModel(simulation, observe(simulation, data))


def equalize_model(found: ObservedModel, data: Sequence[Inputs], share: float) -> ObservedModel:
    """An equalized copy; ``found`` is unchanged."""
    simulation = copy.deepcopy(found.simulation)
    if not equalize(simulation, found.values, share):
        return found
    return ObservedModel(simulation, observe(simulation, data))


def choose_ranges(
    found: ObservedModel, observer: Observer, limits: StepLimits, inputs: int
) -> Simulation:
    """A copy with steps for weights and activations, of a model calibrated on so many ``inputs``;
    ``found`` is unchanged.
    """
    simulation = copy.deepcopy(found.simulation)
    set_weight_steps(simulation)
    set_activation_steps(simulation, found.values, observer)
    settle(simulation, limits, inputs)
    return simulation


def settle(simulation: Simulation, limits: StepLimits, inputs: int) -> frozenset[str]:
    """Give outputs headroom and keep all steps within the limits; return the changed points."""
    widened = give_headroom(simulation, inputs)
    return widened | keep_within(simulation, limits)


def apply_corrections(
    simulation: Simulation,
    data: Sequence[Inputs],
    plan: Plan,
    limits: StepLimits,
    progress: Progress,
) -> Simulation:
    """Apply the plan's learned rounding and corrections in place."""
    if plan.round or plan.correct:
        _repair_layers(simulation, data, plan, progress)
        keep_within(simulation, limits)
    return simulation


def _repair_layers(
    simulation: Simulation, data: Sequence[Inputs], plan: Plan, progress: Progress
) -> None:
    total = sum(point.kind == "weights" for point in simulation.points.values())
    with progress.stage("repairing layer by layer") as stage:
        done = 0

        def repair_layer(layer: Layer) -> None:
            nonlocal done
            if plan.round:
                round_weights(layer)
            if plan.correct:
                correct(layer)
            done += 1
            stage.advance(done, total)

        with simulation.rounding(everywhere):
            walk(simulation, data, repair_layer)


def as_calibrated(prepared: GraphModule) -> Simulation:
    """The simulation of a graph with calibrated observers."""
    simulation = Simulation(prepared)
    for name, point in simulation.points.items():
        observer: Any = getattr(prepared, name)
        scale, zero_point = observer.calculate_qparams()
        if point.axis is None:
            scale, zero_point = scale.reshape(()), zero_point.reshape(())
        steps = Steps(scale.float(), zero_point.to(torch.int32), point.grid, point.axis)
        simulation.roundings[name].steps = steps
    return simulation


def copy_to_prepared(simulation: Simulation, prepared: GraphModule) -> None:
    """Copy the simulation's weights and steps to the prepared graph."""
    with torch.no_grad():
        for name, tensor in (*prepared.named_parameters(), *prepared.named_buffers()):
            value: Any = simulation.graph
            for part in name.split("."):
                value = getattr(value, part, None)
            if isinstance(value, torch.Tensor) and value.shape == tensor.shape:
                tensor.copy_(value)
    copy_steps_to_prepared(simulation, prepared, simulation.points)


def copy_steps_to_prepared(
    simulation: Simulation, prepared: GraphModule, names: Iterable[str]
) -> None:
    """Copy the simulation's steps to the named observers of the prepared graph."""
    for name in names:
        steps = simulation.roundings[name].steps
        if steps is not None:
            observer: Any = getattr(prepared, name)
            observer.calculate_qparams = _Fixed(steps)


class _Fixed:
    """A ``calculate_qparams`` that returns fixed steps."""

    def __init__(self, steps: Steps) -> None:
        self.answer = steps.scale.reshape(-1), steps.zero_point.reshape(-1)

    def __call__(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.answer
