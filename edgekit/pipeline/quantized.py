"""A plan's quantization: the runtime's graph, the plan's repairs, the runtime's integers."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from edgekit.compress.repair import as_calibrated, impose, repaired
from edgekit.compress.simulate import Simulation
from edgekit.pipeline.subject import Subject
from edgekit.plan import Plan
from edgekit.progress import Progress, Silent
from edgekit.recipe import Inputs
from edgekit.runtimes.base import Runtime
from edgekit.runtimes.quiet import quiet


def quantized(
    subject: Subject, runtime: Runtime, plan: Plan, progress: Progress
) -> torch.export.ExportedProgram:
    """A program that computes, in torch, what the artifact will.

    Raises ExportError (the model's own code), RuntimeFailure, RecipeError (NaN inside).
    """
    with quiet():
        return _quantized(subject, runtime, plan, progress)


def _quantized(
    subject: Subject, runtime: Runtime, plan: Plan, progress: Progress
) -> torch.export.ExportedProgram:
    with progress.stage(f"preparing {plan.precision}"):
        prepared = runtime.prepare(subject.model, subject.example, plan)
    if plan.is_plain:
        runtime.calibrate(prepared, subject.calibration, progress)
    else:
        simulation = repaired(prepared, subject.calibration, plan, progress)
        # an observer that saw nothing cannot be converted, whatever it would answer
        runtime.calibrate(prepared, subject.calibration[:1], Silent())
        impose(simulation, prepared)
    with progress.stage(f"converting to {plan.precision}"):
        return runtime.convert(prepared, subject.example)


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
            return repaired(prepared, self._data, plan, Silent())
        calibrated = copy.deepcopy(prepared)
        self._runtime.calibrate(calibrated, self._data, Silent())
        return as_calibrated(calibrated)

    def _prepare(self, plan: Plan) -> torch.fx.GraphModule:
        key = (plan.float_layers, plan.per_channel)
        if key not in self._prepared:
            self._prepared[key] = self._runtime.prepare(
                self._subject.model, self._subject.example, plan
            )
        return self._prepared[key]
