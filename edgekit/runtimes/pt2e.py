"""Quantization on a PT2E graph: the runtime's observers and integers, with the plan's repairs.

Shared by all runtimes that have the capability (base.Pt2e).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.compress.quantization.apply_plan import (
    as_calibrated,
    copy_steps_to_prepared,
    copy_to_prepared,
    repair,
    settle,
)
from edgekit.compress.quantization.limits import keep_within
from edgekit.plan import Plan
from edgekit.progress import Progress, Silent
from edgekit.recipe.tensors import Inputs
from edgekit.runtimes.base import FloatModel, Pt2e
from edgekit.runtimes.quiet import quiet

if TYPE_CHECKING:
    import torch

    from edgekit.compress.quantization.simulate import Simulation
    from edgekit.runtimes.base import Train


def quantize(
    pt2e: Pt2e, source: FloatModel, plan: Plan, train: Train | None, progress: Progress
) -> torch.export.ExportedProgram:
    """The program that computes in torch what the artifact will compute.

    Raises what Runtime.quantize raises.
    """
    with quiet():
        prepared = prepare(pt2e, source, plan, progress)
        if plan.is_plain and train is None:
            pt2e.calibrate(prepared, source.fitted, progress)
            simulation = as_calibrated(prepared)
            changed = settle(simulation, pt2e.step_limits, len(source.fitted))
            copy_steps_to_prepared(simulation, prepared, changed)
        else:
            simulation = simulate(pt2e, prepared, source, plan, progress)
            if train is not None:
                train(simulation)
                keep_within(simulation, pt2e.step_limits)
            # an observer without data cannot be converted, even if its steps are fixed
            pt2e.calibrate(prepared, source.fitted[:1], Silent())
            copy_to_prepared(simulation, prepared)
        with progress.stage(f"converting to {plan.precision}"):
            return pt2e.convert(prepared, source.example)


def prepare(pt2e: Pt2e, source: FloatModel, plan: Plan, progress: Progress) -> torch.fx.GraphModule:
    with progress.stage(f"preparing {plan.precision}"):
        return pt2e.prepare(source.model, source.example, plan, source.calibration)


def simulate(
    pt2e: Pt2e,
    prepared: torch.fx.GraphModule,
    source: FloatModel,
    plan: Plan,
    progress: Progress,
) -> Simulation:
    """The simulation of ``plan`` without its training. ``prepared`` is not changed."""
    if plan.is_plain:
        return simulate_plain(pt2e, prepared, source.fitted, len(source.fitted), progress)
    return repair(prepared, source.fitted, plan, pt2e.step_limits, progress)


def simulate_plain(
    pt2e: Pt2e,
    prepared: torch.fx.GraphModule,
    data: Sequence[Inputs],
    fitted_count: int,
    progress: Progress,
) -> Simulation:
    """The simulation of plain int8, calibrated on ``data``. ``fitted_count``: the number of inputs
    that the artifact will be calibrated on. ``prepared`` is not changed.
    """
    calibrated = copy.deepcopy(prepared)
    pt2e.calibrate(calibrated, data, progress)
    simulation = as_calibrated(calibrated)
    settle(simulation, pt2e.step_limits, fitted_count)
    return simulation
