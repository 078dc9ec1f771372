"""The memory ledger in the documents of build and check, and in verdict.json."""

from __future__ import annotations

from edgekit.frozen import Extensible


class MemoryPart(Extensible):
    """One part of the resident memory: at the peak of loading, and at the peak of running."""

    name: str
    load_mb: float
    run_mb: float


class ActivationPoint(Extensible):
    """An operator in a delegate, and the activations that are alive while it runs.

    ``instruction``: the delegate's number in the program; ``index``: the operator's number in it.
    """

    operator: str
    instruction: int
    index: int
    live_mb: float


class MemoryLedger(Extensible):
    """Where the runner's peak resident memory comes from, predicted from the program's file.

    ``load_mb`` and ``run_mb`` are the sums of the parts; ``peak_mb`` is the larger one, and
    ``interval`` is of it. ``measured_here_mb``: the same program's peak on the host that built the
    bundle; None if it was not measured there. ``activations``: the highest points first.
    """

    parts: tuple[MemoryPart, ...]
    load_mb: float
    run_mb: float
    peak_mb: float
    interval: tuple[float, float]
    measured_here_mb: float | None = None
    activations: tuple[ActivationPoint, ...] = ()
