"""check: is the bundle whole, does it fit, and does it run? Needs no torch and no device."""

from __future__ import annotations

from pathlib import Path

from edgekit.budget import (
    BudgetLimits,
    BudgetName,
    Figure,
    Figures,
    Limits,
    judge,
    merge_limits,
    verdict_of,
)
from edgekit.bundle.manifest import Manifest, read_manifest, verify
from edgekit.bundle.verdict import Record, read_record
from edgekit.documents import CheckDocument, VerdictDocument
from edgekit.pipeline.emulation import emulate
from edgekit.progress import Progress, Silent


def check(
    bundle: str | Path,
    *,
    latency_ms: float | None = None,
    memory_mb: float | None = None,
    size_mb: float | None = None,
    max_drop: float | None = None,
    progress: Progress | None = None,
) -> CheckDocument:
    """Verify every digest of a bundle, run its golden inputs on the CPU that it is for (emulated
    where that is not this host's), and hold it against its budgets.

    The budgets asked for at build stand; an argument replaces the one that it names.
    Raises BundleError: a file is missing, changed or added, or the bundle is of a newer edgekit;
    RunnerError: the CPU has not all its instructions, or its runner fails; ParityError.
    """
    folder = Path(bundle).resolve()
    manifest, record = open_bundle(folder)
    flags = BudgetLimits(
        latency_ms=latency_ms, memory_mb=memory_mb, size_mb=size_mb, max_drop=max_drop
    )
    limits = record.limits | merge_limits([("flag", flags)])
    emulation = emulate(folder, manifest, progress or Silent())
    document = verdict_document("edgekit.check/1", folder, manifest, record, limits)
    return CheckDocument(**dict(document), emulation=emulation)


def open_bundle(folder: Path) -> tuple[Manifest, Record]:
    """Read a bundle after verifying all of it. Raises BundleError."""
    manifest = read_manifest(folder)
    verify(folder, manifest)
    return manifest, read_record(folder, manifest.digest)


def verdict_document(
    schema: str, folder: Path, manifest: Manifest, record: Record, limits: Limits
) -> VerdictDocument:
    """Hold the record's figures, and the size that stands in the manifest, against ``limits``."""
    lines = judge(limits, figures_of(manifest, record), record.missing)
    return VerdictDocument(
        schema_=schema,
        bundle=str(folder),
        target=manifest.target,
        runtime=manifest.runtime.name,
        verdict=verdict_of(lines),
        budgets=tuple(lines),
        accuracy=record.accuracy,
        fp32_judged_by=record.fp32_judged_by,
        parity=record.parity,
        plan=manifest.plan.model_dump(mode="json"),
        ladder=record.ladder,
        blame=record.blame,
        compression=record.compression,
        program=manifest.program.summary(),
        seconds=record.seconds,
    )


def figures_of(manifest: Manifest, record: Record) -> Figures:
    size: dict[BudgetName, Figure] = {
        "size_mb": Figure(value=manifest.size_mb, source="measured"),
    }
    return record.figures | size
