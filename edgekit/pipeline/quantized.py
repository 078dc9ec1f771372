"""A plan's quantization: the runtime's graph, the plan's repairs, the runtime's integers."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from edgekit.compress.limits import keep_within
from edgekit.compress.repair import as_calibrated, impose, impose_steps, repaired
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
            widened = keep_within(simulation, tools.runtime.step_limits)
            impose_steps(simulation, prepared, widened)
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
    return _plain(prepared, tools.runtime, subject.fitted, tools.progress)


def _plain(
    prepared: torch.fx.GraphModule, runtime: Runtime, data: Sequence[Inputs], progress: Progress
) -> Simulation:
    calibrated = copy.deepcopy(prepared)
    runtime.calibrate(calibrated, data, progress)
    simulation = as_calibrated(calibrated)
    keep_within(simulation, runtime.step_limits)
    return simulation


class Simulator:
    """What plans make of a subject's model when they are fitted to ``data``; each done once."""

    def __init__(self, subject: Subject, runtime: Runtime, data: Sequence[Inputs]) -> None:
        self._subject, self._runtime, self._data = subject, runtime, data
        self._prepared: dict[tuple[object, ...], torch.fx.GraphModule] = {}
        self._done: dict[str, Simulation] = {}

    def __call__(self, plan: Plan) -> Simulation:
        key = plan.model_dump_json()
        if key not in self._done:
            with quiet():
                self._done[key] = self._simulation(plan)
        return self._done[key]

    def _simulation(self, plan: Plan) -> Simulation:
        prepared = self._prepare(plan)
        if not plan.is_plain:
            return repaired(prepared, self._data, plan, self._runtime.step_limits, Silent())
        return _plain(prepared, self._runtime, self._data, Silent())

    def _prepare(self, plan: Plan) -> torch.fx.GraphModule:
        key = (plan.float_layers, plan.per_channel, plan.linear)
        if key not in self._prepared:
            self._prepared[key] = self._runtime.prepare(
                self._subject.model, self._subject.example, plan, self._subject.calibration
            )
        return self._prepared[key]
