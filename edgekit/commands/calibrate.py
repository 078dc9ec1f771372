"""targets calibrate: time small programs on a device, to predict others for it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from edgekit.cache import content_key
from edgekit.cost.calibration.devices import device_target
from edgekit.cost.calibration.predict import Predictor, with_left_out
from edgekit.cost.calibration.record import CalibratedDevice, Calibration, ProgramTimes
from edgekit.cost.calibration.store import (
    Draft,
    calibration_path,
    read_calibration,
    write_calibration,
)
from edgekit.device.connect import connection
from edgekit.documents.calibration import CalibrateDocument, CalibrationQuality, LeftOutProgram
from edgekit.errors import CalibrationError
from edgekit.measure.calibration import CalibrationDevice, CalibrationProgram, measure_programs
from edgekit.process.interrupt import uninterruptible
from edgekit.process.waiting import wait_passively
from edgekit.progress import Progress, Silent
from edgekit.runtimes.base import Runtime
from edgekit.runtimes.registry import choose_runtime
from edgekit.values import RuntimeName
from edgekit.version import __version__


def calibrate_device(
    device: str = "local",
    *,
    runtime: RuntimeName | None = None,
    lenient: bool = False,
    accept_new_host_key: bool = False,
    progress: Progress | None = None,
) -> CalibrateDocument:
    """Time the calibration's programs on a device, fit and store the result.

    ``runtime``: each has a calibration of its own; None: the first one that is installed.

    Raises DeviceError; TargetError: edgekit does not build for the device; CalibrationError: the
    device was not steady, or the stored calibration cannot be read; MissingExtraError,
    RuntimeFailure, StoreError, OutputError. The next call continues after any error.
    """
    wait_passively()
    progress = progress or Silent()
    with connection(device, accept_new_host_key, progress) as transport:
        facts, target = device_target(transport)
        engine = choose_runtime(runtime, target)
        if not engine.runs_here:
            raise CalibrationError(
                f"{device}: {engine.name} does not report the times of operators, which a "
                "calibration consists of",
                "measure the bundles themselves: edgekit bench",
            )
        path = calibration_path(facts, engine.name, engine.version)
        if path.exists():
            read_calibration(path)  # a damaged or newer file is not replaced
        programs = _programs(engine, progress, target.computes_half)
        draft = _draft(path, programs)
        if draft.count:
            progress.note(f"an interrupted calibration of {facts.title} is continued")
        files = engine.device_files(target, progress)
        threads = tuple(sorted({1, target.threads}))
        place = CalibrationDevice(transport, engine.name, files, threads)
        times, warnings = measure_programs(programs, place, draft, lenient, progress)
    with progress.stage("fitting"):
        calibration = _calibration(facts, engine, times, warnings)
    write_calibration(calibration)
    draft.remove()
    return _document(device, calibration, path)


def _programs(engine: Runtime, progress: Progress, with_half: bool) -> list[CalibrationProgram]:
    with progress.stage("starting PyTorch"), uninterruptible():
        from edgekit.pipeline.calibration.programs import calibration_programs  # imports torch

    return calibration_programs(engine, progress, with_half)


def _draft(path: Path, programs: Sequence[CalibrationProgram]) -> Draft:
    return Draft(path, content_key(program.artifact.data for program in programs))


def _calibration(
    facts: CalibratedDevice,
    engine: Runtime,
    times: Sequence[ProgramTimes],
    warnings: tuple[str, ...],
) -> Calibration:
    return Calibration(
        edgekit=__version__,
        device=facts,
        runtime=engine.name,
        runtime_version=engine.version,
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        warnings=warnings,
        programs=with_left_out(times),
    )


def _document(device: str, calibration: Calibration, path: Path) -> CalibrateDocument:
    return CalibrateDocument(
        schema_="edgekit.calibrate/1",
        device=device,
        model=calibration.device.title,
        cpu=calibration.device.cpu,
        runtime=calibration.runtime,
        runtime_version=calibration.runtime_version,
        measured=calibration.measured,
        operators=sum(len(program.shapes) for program in calibration.programs),
        quality=tuple(_quality(calibration, threads) for threads in calibration.threads),
        warnings=calibration.warnings,
        file=str(path),
    )


def _quality(calibration: Calibration, threads: int) -> CalibrationQuality:
    predictor = Predictor(tuple(calibration.of_threads(threads)))
    programs = tuple(
        LeftOutProgram(
            network=program.network,
            precision=program.precision,
            measured_ms=program.latency_ms,
            predicted_ms=program.left_out_ms,
            interval_ms=predictor.left_out_interval(program),
            error=program.left_out_error,
        )
        for program in predictor.programs
    )
    errors = [abs(program.error) for program in programs]
    inside = [one.interval_ms[0] <= one.measured_ms <= one.interval_ms[1] for one in programs]
    return CalibrationQuality(
        threads=threads,
        mean_error=sum(errors) / len(errors),
        worst_error=max(errors),
        covered=sum(inside) / len(inside),
        programs=programs,
    )
