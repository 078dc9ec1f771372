"""The latency of a bundle on a target that is not at hand, as a figure with its interval.

By a calibration of the target's device if there is one (calibration/), else by emulation where its
tools are installed (emulation/predict.py), else by arithmetic (analytic.py). All are called
predicted; the note says how, and what measures it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from edgekit.budget import DECIDE, Figure
from edgekit.bundle.manifest import Manifest
from edgekit.cost import analytic
from edgekit.cost.calibration.latency import CALIBRATE, Shapes, calibrated_latency
from edgekit.cost.calibration.store import read_all
from edgekit.cost.cores import CORE_MODELS, CoreModel
from edgekit.cost.emulation.predict import NotPredictedError, emulated_work
from edgekit.cost.emulation.tools import TOOLS
from edgekit.cost.latency import (
    Factors,
    InferenceWork,
    interval_factors,
    interval_ms,
    latency_by_operator,
    latency_ms,
)
from edgekit.cost.shapes import OperatorShape, OperatorTimes
from edgekit.cost.unproven import unproven_operators, widened
from edgekit.documents.latency import CostSource
from edgekit.progress import Progress
from edgekit.runner.client import ProfileRow
from edgekit.target import Target, host_architecture


class Prediction(NamedTuple):
    """``rows``: the operators with their parts of the latency, as the profile of an emulated run
    has them; ``times``: by a calibration, which knows their shapes. Without both, they are unknown.
    """

    figure: Figure
    source: CostSource
    rows: tuple[ProfileRow, ...] = ()
    times: OperatorTimes | None = None


def predicted_latency(
    folder: Path,
    manifest: Manifest,
    inputs: Sequence[bytes],
    shapes: Shapes,
    target: Target,
    progress: Progress,
) -> Prediction | str:
    """The predicted latency, or the reason why there is none.

    ``inputs``: raw bytes, one for each input of the program. ``shapes``: gives its operators, or
    None if the runtime cannot tell: then there is neither a calibrated latency nor an estimate.
    """
    calibrated = calibrated_latency(shapes, target, manifest.runtime)
    for problem in calibrated.problems:
        progress.note(f"not used: {problem}")
    if calibrated.figure is not None:
        return Prediction(calibrated.figure, "calibrated", times=calibrated.times)
    core = CORE_MODELS.get(target.cpu)
    if target.architecture == host_architecture():
        return f"not predicted: no calibration ({CALIBRATE})"
    if core is None or target.architecture != "aarch64":
        return f"not predicted: no calibration ({CALIBRATE}), no model of the core {target.cpu}"
    if target.clock_ghz is None:
        return f"not predicted: the target {target.name} has no clock_ghz"
    try:
        work = emulated_work(folder, manifest, inputs, target, progress)
    except NotPredictedError as error:
        reason = f"{error.message}; {error.hint}" if error.hint else error.message
        operators = shapes()
        if operators is None:
            return f"not predicted: {reason}"
        return Prediction(_estimated(operators, manifest, core, target, reason), "estimated")
    figure = emulated_figure(work, manifest, core, target)
    rows = latency_by_operator(work, figure.value, core, target.clock_ghz, manifest.threads)
    return Prediction(figure, "emulated", rows)


def prediction_facts(target: Target, runtime: str) -> list[str]:
    """What a predicted latency depends on besides the program and the target: the calibrations of
    this user, and the tools of the emulation.
    """
    calibrations = [one.model_dump_json() for one in read_all()[0] if one.runtime == runtime]
    if target.architecture == host_architecture():
        return calibrations
    return [*calibrations, *(f"{tool.name}: {tool.find()}" for tool in TOOLS)]


def emulated_figure(
    work: InferenceWork, manifest: Manifest, core: CoreModel, target: Target
) -> Figure:
    threads, clock = manifest.threads, target.clock_ghz or 1.0
    unproven = unproven_operators(manifest.program)
    if manifest.plan.uses_half:
        unproven = ["half precision", *unproven]
    factors = widened(interval_factors(threads), unproven)
    value = latency_ms(work.whole, core, clock, threads)
    if manifest.program.outside_operators and threads > 1:
        serial = work.whole._replace(serial_cycles=work.outside_cycles)
        serial_ms = latency_ms(serial, core, clock, threads)
        value, factors = _reaching(value, serial_ms, factors, bool(work.operators))
    note = (
        f"predicted by emulation ({core.title} at {clock:g} GHz, {_threads(threads)}), "
        f"not measured: {DECIDE}"
    )
    if threads > 1:
        note += "; with --threads 1 the range is narrower"
    if unproven:
        names = ", ".join(unproven[:4]) + (", ..." if len(unproven) > 4 else "")
        note += f"; wider range: no published latency covers {names}"
    return _figure(value, factors, manifest, note)


def _reaching(
    shared_ms: float, serial_ms: float, factors: Factors, is_attributed: bool
) -> tuple[float, Factors]:
    """The latency if kernels outside the delegates run on one thread, and an interval that also
    reaches beyond the latency if they share their work.

    Most of these kernels use one thread. Which ones do not is unknown. Where the runtime does not
    tell which cycles are theirs, all may be: then the value is between the two.
    """
    value = serial_ms if is_attributed else math.sqrt(shared_ms * serial_ms)
    return value, Factors(factors.low * shared_ms / value, factors.high * serial_ms / value)


def _estimated(
    operators: Sequence[OperatorShape],
    manifest: Manifest,
    core: CoreModel,
    target: Target,
    reason: str,
) -> Figure:
    note = f"estimated from its arithmetic, not emulated ({reason}); {DECIDE}"
    macs = sum(operator.macs for operator in operators)
    model_bytes = sum(file.size for file in manifest.files if file.role == "model")
    value = analytic.latency_ms(
        macs, model_bytes, manifest.program, core, target.clock_ghz or 1.0, manifest.threads
    )
    return _figure(value, analytic.INTERVAL, manifest, note)


def _figure(value: float, factors: Factors, manifest: Manifest, note: str) -> Figure:
    interval = interval_ms(value, factors, manifest.threads, manifest.program.operator_count)
    return Figure(value=value, source="predicted", interval=interval, note=note)


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count != 1 else ''}"
