"""check: is the bundle whole, does it fit, and does it run? Needs no torch and no device."""

from __future__ import annotations

from pathlib import Path

from edgekit.budget import BudgetLimits, merge_limits
from edgekit.bundle.read import open_bundle
from edgekit.bundle.verdict import verdict_document
from edgekit.documents.verdict import CheckDocument
from edgekit.measure.emulated import emulate
from edgekit.options import LIBRARY, validated
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
    Raises SettingError: a budget's value; BundleError: a file is missing, changed or added, or the
    bundle is of a newer edgekit; RunnerError: the CPU has not all its instructions, or its runner
    fails; ParityError.
    """
    budgets = {
        "latency_ms": latency_ms,
        "memory_mb": memory_mb,
        "size_mb": size_mb,
        "max_drop": max_drop,
    }
    asked = BudgetLimits(**validated(budgets, LIBRARY))
    folder = Path(bundle).resolve()
    manifest, record = open_bundle(folder)
    limits = record.limits | merge_limits([("flag", asked)])
    emulation = emulate(folder, manifest, progress or Silent())
    document = verdict_document("edgekit.check/1", folder, manifest, record, limits)
    return CheckDocument(**dict(document), emulation=emulation)
