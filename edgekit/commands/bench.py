"""bench: measure a bundle or a finished file on a device. A bundle needs no torch for this."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from edgekit.budget import judge, verdict_of
from edgekit.bundle.manifest import Manifest
from edgekit.bundle.read import open_bundle
from edgekit.bundle.verdict import Record, figures_of, peak_of
from edgekit.commands.build import build
from edgekit.device.base import Transport
from edgekit.device.connect import connection
from edgekit.device.facts.probe import environment_of
from edgekit.documents.measure import BenchDocument
from edgekit.errors import PreflightError, UsageError
from edgekit.measure.golden import DEFAULT_RUNS, DEFAULT_WARMUP, Load
from edgekit.measure.session import (
    Measurement,
    latency_unknown_reason,
    measure_bundle,
)
from edgekit.progress import Progress, Silent
from edgekit.runtimes.registry import runtime_of_file, runtimes_on, suffixes
from edgekit.target import Architecture, Target


def bench(
    bundle: str | Path,
    device: str = "local",
    *,
    threads: int | None = None,
    runs: int = DEFAULT_RUNS,
    warmup: int = DEFAULT_WARMUP,
    timeout_s: float | None = None,
    signature: str | None = None,
    accept_new_host_key: bool = False,
    progress: Progress | None = None,
) -> BenchDocument:
    """Benchmark a bundle with its own runner: parity, latency, memory, operators, environment.

    The bundle's release is installed if the device lacks it; the current release stays. A finished
    .pte or .tflite is first packaged for the device; it has no reference, so there is no parity.
    ``signature``: the one to measure, of a .tflite with several.
    Raises BundleError, DeviceError, PreflightError (for example another architecture), StoreError,
    ParityError, RunnerError; for a file also UsageError and what build raises.
    """
    progress = progress or Silent()
    source = Path(bundle).resolve()
    if source.is_file() and runtime_of_file(source) is None:
        raise UsageError(
            f"{source} is neither a bundle nor a finished program ({', '.join(suffixes())})",
            "edgekit build makes a bundle",
        )
    if signature is not None and not source.is_file():
        raise UsageError(
            f"{source} is a bundle, which has one signature",
            "omit --signature, or name the .tflite that the bundle was built from",
        )
    # refuse a damaged bundle before connecting to the device
    opened = None if source.is_file() else open_bundle(source)
    with (
        connection(device, accept_new_host_key, progress) as transport,
        _packed(source, transport, signature, progress) as folder,
    ):
        manifest, record = opened or open_bundle(folder)
        load = Load(threads or manifest.threads, runs, warmup, timeout_s)
        found = measure_bundle(folder, manifest, peak_of(record), transport, load, progress)
    return _document(source, device, manifest, record, found)


@contextmanager
def _packed(
    source: Path, transport: Transport, signature: str | None, progress: Progress
) -> Iterator[Path]:
    """The bundle's folder; for a file, a temporary bundle."""
    if not source.is_file():
        yield source
        return
    found = environment_of(transport)
    if found.architecture not in get_args(Architecture):
        architecture = found.architecture or "of unknown architecture"
        raise PreflightError(
            f"{transport.name} is {architecture}: {source.name} cannot be packaged for it",
            f"edgekit packages for {', '.join(get_args(Architecture))}",
        )
    target = Target.model_validate(
        {
            "name": found.architecture,
            "architecture": found.architecture,
            "cpu": "max",
            "cores": found.cores or 1,
            "threads": 1,
            "glibc": "2.27",
            "runtimes": (runtime_of_file(source, runtimes_on(found.architecture)),),
        }
    )
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        output = Path(folder) / "bundle"
        build(
            source,
            target=target,
            output=output,
            signature=signature,
            effort="quick",
            progress=progress,
        )
        yield output


def _document(
    source: Path, device: str, manifest: Manifest, record: Record, found: Measurement
) -> BenchDocument:
    figures = figures_of(manifest, record) | found.figures()
    missing = dict(record.missing)
    if "latency_ms" not in found.figures():
        figures.pop("latency_ms", None)
        missing["latency_ms"] = latency_unknown_reason(found.conditions.before.emulated)
    lines = judge(record.limits, figures, missing)
    return BenchDocument(
        schema_="edgekit.bench/1",
        bundle=str(source),
        target=manifest.target,
        device=device,
        threads=found.threads,
        latency_ms=found.latency,
        load_ms=found.load_ms,
        peak_memory_mb=max(found.peaks_mb),
        swapped_mb=found.swapped_mb,
        parity=None if source.is_file() else found.parity,
        per_op=found.operators,
        profiled_ms=found.profiled_ms,
        environment=found.environment,
        budgets=tuple(lines),
        verdict=verdict_of(lines),
    )
