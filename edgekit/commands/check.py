"""check: verifies, runs and judges a bundle. Needs no torch and no device."""

from __future__ import annotations

from pathlib import Path

from edgekit.budget import BudgetLimits, merge_limits
from edgekit.build_options import LIBRARY, validated
from edgekit.bundle.read import open_bundle
from edgekit.bundle.verdict import verdict_document
from edgekit.documents.verdict import CheckDocument
from edgekit.measure.emulated import emulate
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
    """Verify a bundle's files, run its golden inputs, and compare it with its budgets.

    The inputs run on the CPU that the bundle is for, emulated if this host has another. The
    budgets are those of the build; an argument replaces one.
    Raises SettingError for a budget's value; BundleError if a file is missing, changed or added, or
    the bundle is of a newer edgekit; RunnerError if the CPU lacks an instruction or the runner
    fails; ParityError.
    """
    budgets = {
        "latency_ms": latency_ms,
        "memory_mb": memory_mb,
        "size_mb": size_mb,
        "max_drop": max_drop,
    }
    overrides = BudgetLimits(**validated(budgets, LIBRARY))
    folder = Path(bundle).resolve()
    manifest, record = open_bundle(folder)
    limits = record.limits | merge_limits([("flag", overrides)])
    emulation = emulate(folder, manifest, progress or Silent())
    document = verdict_document("edgekit.check/1", folder, manifest, record, limits)
    return CheckDocument(**dict(document), emulation=emulation)
