"""A plan's quantization: the runtime's graph, the plan's repairs, the runtime's integers."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from edgekit.compress.limits import keep_within
from edgekit.compress.repair import (
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
from edgekit.compress.simulate import Simulation
from edgekit.pipeline.kept import Tools
from edgekit.pipeline.subject import Subject
from edgekit.pipeline.training import Scores, train_simulation
from edgekit.plan import Plan
from edgekit.progress import Progress, Silent
from edgekit.recipe import Inputs
from edgekit.runtimes.base import Runtime
from edgekit.runtimes.quiet import quiet


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
        return plan.model_copy(update={"train": done}), scores


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


class Simulator:
    """What plans make of a subject's model when they are fitted to ``data``, a part of what an
    artifact is fitted to; each done once.
    """

    def __init__(self, subject: Subject, runtime: Runtime, data: Sequence[Inputs]) -> None:
        self._subject, self._runtime, self._data = subject, runtime, data
        self._inputs = len(subject.fitted)
        self._prepared: dict[tuple[object, ...], torch.fx.GraphModule] = {}
        self._observed: dict[tuple[object, ...], Observed] = {}
        self._ranged: dict[tuple[object, ...], Simulation] = {}
        self._done: dict[str, Simulation] = {}

    def __call__(self, plan: Plan) -> Simulation:
        key = plan.model_dump_json()
        if key not in self._done:
            with quiet():
                self._done[key] = self._simulation(plan)
        return self._done[key]

    def _simulation(self, plan: Plan) -> Simulation:
        limits = self._runtime.step_limits
        if plan.is_plain:
            prepared = self._prepare(plan)
            return _plain(prepared, self._runtime, self._data, self._inputs, Silent())
        key = (_structure(plan), plan.equalize, plan.observer)
        if key not in self._ranged:
            found = self._observe(plan)
            self._ranged[key] = ranged(found, plan.observer, limits, self._inputs)
        simulation = copy.deepcopy(self._ranged[key])
        return corrected(simulation, self._data, plan, limits, Silent())

    def _observe(self, plan: Plan) -> Observed:
        """Several plans differ only in what is made of what was seen."""
        key = (_structure(plan), plan.equalize)
        if key not in self._observed:
            if plan.equalize is None:
                found = observed(self._prepare(plan), self._data)
            else:
                bare = self._observe(plan.model_copy(update={"equalize": None}))
                found = equalized(bare, self._data, plan.equalize)
            self._observed[key] = found
        return self._observed[key]

    def _prepare(self, plan: Plan) -> torch.fx.GraphModule:
        key = _structure(plan)
        if key not in self._prepared:
            self._prepared[key] = self._runtime.prepare(
                self._subject.model, self._subject.example, plan, self._subject.calibration
            )
        return self._prepared[key]


def _structure(plan: Plan) -> tuple[object, ...]:
    """What of a plan decides where the prepared graph rounds."""
    return plan.float_layers, plan.per_channel, plan.linear
