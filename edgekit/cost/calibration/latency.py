"""The latency of a build by a stored calibration of a device like its target."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from edgekit.budget import DECIDE, Figure
from edgekit.bundle.manifest import RuntimeInfo
from edgekit.cost.calibration.devices import this_host
from edgekit.cost.calibration.predict import PredictedLatency, Predictor, predictor
from edgekit.cost.calibration.record import Calibration
from edgekit.cost.calibration.store import read_all
from edgekit.cost.shapes import OperatorShape, OperatorTimes
from edgekit.target import Target, computes_half

CALIBRATE = "edgekit targets calibrate DEVICE"
# How many unknown kinds of operators a note names.
NAMED = 4
# Gives the operators of a program, or None if its runtime cannot tell.
Shapes = Callable[[], Sequence[OperatorShape] | None]


class Calibrated(NamedTuple):
    """A prediction by a calibration. ``problems``: why calibrations were not used, in words."""

    figure: Figure | None
    problems: tuple[str, ...]
    times: OperatorTimes | None = None


def calibrated_latency(shapes: Shapes, target: Target, runtime: RuntimeInfo) -> Calibrated:
    """Predict by the newest calibration of a device that the target describes.

    A calibration of another device, runtime, version or number of threads is never used.
    """
    everything, errors = read_all()
    stored = [one for one in everything if one.runtime == runtime.name]
    problems = [f"{error.message}; {error.hint}" for error in errors]
    found = _of_target(stored, target)
    fitting = [one for one in found if one.runtime_version == runtime.version]
    problems += [] if fitting else [_other_version(one, runtime.version) for one in found]
    problems += [] if found else [_other_facts(one, target) for one in _of_core(stored, target)]
    for calibration in sorted(fitting, key=lambda one: one.measured, reverse=True):
        chosen, known = predictor(calibration, target.threads), shapes()
        if known is not None and chosen is not None and _lacks_half(chosen, known):
            problems.append(_no_half(calibration))
        elif chosen is not None and known is not None:
            latency = chosen.predict(known)
            figure = _figure(chosen, calibration, latency)
            return Calibrated(figure, tuple(problems), latency.times)
        else:
            problems.append(_other_threads(calibration, target.threads))
    return Calibrated(None, tuple(problems))


def _of_target(stored: Sequence[Calibration], target: Target) -> list[Calibration]:
    """Those of the target's device; for a target that may be any computer, those of this host."""
    found = [one for one in stored if one.device.is_of(target)]
    if found or not stored:
        return found
    host = this_host()
    if host is None or (target.architecture, target.cpu) != (host.architecture, host.cpu):
        return []
    known = set(target.features) <= set(host.features)
    return [one for one in stored if one.device == host and known]


def _of_core(stored: Sequence[Calibration], target: Target) -> list[Calibration]:
    """Those of devices with the target's core, but another clock or other features."""
    own = (target.architecture, target.cpu)
    return [one for one in stored if (one.device.architecture, one.device.cpu) == own]


def _figure(chosen: Predictor, calibration: Calibration, found: PredictedLatency) -> Figure:
    threads = chosen.programs[0].threads
    note = (
        f"predicted by the calibration of {calibration.device.title} on "
        f"{calibration.measured[:10]} ({calibration.runtime} {calibration.runtime_version}, "
        f"{threads} thread{'s' if threads > 1 else ''}), not measured: {DECIDE}"
    )
    if found.unknown:
        more = ", ..." if len(found.unknown) > NAMED else ""
        names = ", ".join(found.unknown[:NAMED]) + more
        note += f"; wider range: {len(found.unknown)} kinds of operators not calibrated: {names}"
    if calibration.warnings:
        note += f"; the device was not steady: {calibration.warnings[0]}"
    return Figure(value=found.latency_ms, source="predicted", interval=found.interval_ms, note=note)


def _lacks_half(chosen: Predictor, shapes: Sequence[OperatorShape]) -> bool:
    """Whether the operators compute in half precision, and nothing calibrated does.

    Without this, they would be estimated from all operators in other precisions.
    """
    known = any(_is_half(program.shapes) for program in chosen.programs)
    return _is_half(shapes) and not known


def _is_half(shapes: Iterable[OperatorShape]) -> bool:
    return any(shape.precision == "fp16" and shape.macs for shape in shapes)


def _no_half(calibration: Calibration) -> str:
    title = calibration.device.title
    if not computes_half(calibration.device.features):
        return f"the calibration of {title}, whose cores do not compute in half precision"
    return (
        f"the calibration of {title} has no operators in half precision: repeat it with {CALIBRATE}"
    )


def _other_version(calibration: Calibration, version: str) -> str:
    return (
        f"the calibration of {calibration.device.title} is for {calibration.runtime} "
        f"{calibration.runtime_version}, not {version}: repeat it with {CALIBRATE}"
    )


def _other_facts(calibration: Calibration, target: Target) -> str:
    clock_ghz = calibration.device.clock_ghz
    clock = "" if clock_ghz is None else f" at {clock_ghz:g} GHz"
    return (
        f"the calibration is of {calibration.device.title}{clock}, whose clock or features are "
        f"not those of the target {target.name}: edgekit targets probe DEVICE --output FILE.toml "
        "writes a target for that device"
    )


def _other_threads(calibration: Calibration, threads: int) -> str:
    known = " and ".join(str(count) for count in calibration.threads)
    return (
        f"the calibration of {calibration.device.title} is for {known} threads, not {threads}: "
        "set threads in the target's file to one of these"
    )
