"""A plan's quantization: the runtime's graph, the plan's repairs, the runtime's integers."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

import torch

from edgekit.compress.quantization.limits import keep_within
from edgekit.compress.quantization.repair import (
    Observed,
    as_calibrated,
    corrected,
    equalized,
    impose,
    impose_steps,
    observed,
    ranged,
    repaired,
    settle,
)
from edgekit.compress.quantization.simulate import Simulation
from edgekit.pipeline.model.context import Tools
from edgekit.pipeline.model.subject import Subject
from edgekit.pipeline.training.checkpoint import Scores
from edgekit.pipeline.training.int8 import train_simulation
from edgekit.plan import Plan
from edgekit.progress import Progress, Silent
from edgekit.recipe.tensors import Inputs
from edgekit.runtimes.base import Runtime
from edgekit.runtimes.quiet import quiet

# What simulations of one kind may take beside the model, each with its own weights.
KEPT_BYTES = 400_000_000


def quantized(subject: Subject, tools: Tools, plan: Plan) -> torch.export.ExportedProgram:
    """A program that computes, in torch, what the artifact will.

    Raises ExportError (the model's own code), RuntimeFailure, RecipeError (NaN inside),
    TrainingError.
    """
    with quiet():
        prepared = _prepared(subject, tools, plan)
        if plan.is_plain and plan.train is None:
            tools.runtime.calibrate(prepared, subject.fitted, tools.progress)
            simulation = as_calibrated(prepared)
            changed = settle(simulation, tools.runtime.step_limits, len(subject.fitted))
            impose_steps(simulation, prepared, changed)
        else:
            simulation = _simulated(prepared, subject, tools, plan)
            if plan.train is not None:
                train_simulation(subject, tools, plan, simulation)
                keep_within(simulation, tools.runtime.step_limits)
            # an observer that saw nothing cannot be converted, whatever it would answer
            tools.runtime.calibrate(prepared, subject.fitted[:1], Silent())
            impose(simulation, prepared)
        with tools.progress.stage(f"converting to {plan.precision}"):
            return tools.runtime.convert(prepared, subject.example)


def trained(
    subject: Subject, tools: Tools, plan: Plan, limit_s: float | None = None
) -> tuple[Plan, Scores]:
    """Train as the plan says, keep the weights, and give the plan that leads to them again, with
    what was judged on the way.

    Raises what ``quantized`` raises.
    """
    with quiet():
        simulation = _simulated(_prepared(subject, tools, plan), subject, tools, plan)
        done, scores = train_simulation(subject, tools, plan, simulation, limit_s)
        return plan.replaced(train=done), scores


def _prepared(subject: Subject, tools: Tools, plan: Plan) -> torch.fx.GraphModule:
    with tools.progress.stage(f"preparing {plan.precision}"):
        return tools.runtime.prepare(subject.model, subject.example, plan, subject.calibration)


def _simulated(
    prepared: torch.fx.GraphModule, subject: Subject, tools: Tools, plan: Plan
) -> Simulation:
    """The simulation of what ``plan`` says beside training; ``prepared`` stays as it is."""
    if not plan.is_plain:
        limits = tools.runtime.step_limits
        return repaired(prepared, subject.fitted, plan, limits, tools.progress)
    return _plain(prepared, tools.runtime, subject.fitted, len(subject.fitted), tools.progress)


def _plain(
    prepared: torch.fx.GraphModule,
    runtime: Runtime,
    data: Sequence[Inputs],
    inputs: int,
    progress: Progress,
) -> Simulation:
    calibrated = copy.deepcopy(prepared)
    runtime.calibrate(calibrated, data, progress)
    simulation = as_calibrated(calibrated)
    settle(simulation, runtime.step_limits, inputs)
    return simulation


Value = TypeVar("Value")


class LatestUsed(Generic[Value]):
    """At most so many results by key; the one that was wanted longest ago goes first."""

    def __init__(self, most: int) -> None:
        self._most, self._kept = most, OrderedDict[Hashable, Value]()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        if key not in self._kept:
            self._kept[key] = make()
        self._kept.move_to_end(key)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return self._kept[key]


class Simulator:
    """What plans make of a subject's model when they are fitted to ``data``, a part of what an
    artifact is fitted to; each done once.
    """

    def __init__(self, subject: Subject, runtime: Runtime, data: Sequence[Inputs]) -> None:
        self._subject, self._runtime, self._data = subject, runtime, data
        self._inputs = len(subject.fitted)
        weights = sum(p.numel() * p.element_size() for p in subject.model.parameters())
        most = max(2, KEPT_BYTES // max(1, weights))
        self._prepared: LatestUsed[torch.fx.GraphModule] = LatestUsed(most)
        self._observed: LatestUsed[Observed] = LatestUsed(most)
        self._ranged: LatestUsed[Simulation] = LatestUsed(most)
        self._done: LatestUsed[Simulation] = LatestUsed(most)

    def __call__(self, plan: Plan) -> Simulation:
        with quiet():
            return self._done.get(plan.model_dump_json(), lambda: self._simulation(plan))

    def _simulation(self, plan: Plan) -> Simulation:
        limits = self._runtime.step_limits
        if plan.is_plain:
            prepared = self._prepare(plan)
            return _plain(prepared, self._runtime, self._data, self._inputs, Silent())
        key = (_structure(plan), plan.equalize, plan.observer)
        bare = self._ranged.get(
            key, lambda: ranged(self._observe(plan), plan.observer, limits, self._inputs)
        )
        return corrected(copy.deepcopy(bare), self._data, plan, limits, Silent())

    def _observe(self, plan: Plan) -> Observed:
        """Several plans differ only in what is made of what was seen."""

        def observe() -> Observed:
            if plan.equalize is None:
                return observed(self._prepare(plan), self._data)
            bare = self._observe(plan.replaced(equalize=None))
            return equalized(bare, self._data, plan.equalize)

        return self._observed.get((_structure(plan), plan.equalize), observe)

    def _prepare(self, plan: Plan) -> torch.fx.GraphModule:
        def prepare() -> torch.fx.GraphModule:
            model, example = self._subject.model, self._subject.example
            return self._runtime.prepare(model, example, plan, self._subject.calibration)

        return self._prepared.get(_structure(plan), prepare)


def _structure(plan: Plan) -> tuple[object, ...]:
    """What of a plan decides where the prepared graph rounds."""
    return plan.float_layers, plan.per_channel, plan.linear
