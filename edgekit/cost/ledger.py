"""The memory ledger: the parts of the runner's peak resident memory on a target, predicted.

The sizes are the runtime's (sizes.py), and so are the constants of its runner, which are fitted to
measured peaks: docs/benchmarks.md, "The memory ledger".
"""

from __future__ import annotations

from collections.abc import Iterator

from edgekit.cost.sizes import DelegateMemory, ProgramMemory
from edgekit.documents.memory import ActivationPoint, MemoryLedger, MemoryPart

MB = 1e6
HIGHEST_POINTS = 3
# A program without kernels outside its delegates loads so many libraries.
DELEGATE_LIBRARIES = 3


def ledger(sizes: ProgramMemory) -> MemoryLedger:
    """Predict the parts of the peak at loading and at running."""
    parts = tuple(_parts(sizes))
    load_mb = sum(part.load_mb for part in parts)
    run_mb = sum(part.run_mb for part in parts)
    peak_mb = max(load_mb, run_mb)
    highest_mb = peak_mb + sizes.doubtful_bytes / 1e6
    margin_mb = peak_mb * sizes.runner.spread + sizes.runner.spread_mb
    return MemoryLedger(
        parts=parts,
        load_mb=round(load_mb, 3),
        run_mb=round(run_mb, 3),
        peak_mb=round(peak_mb, 3),
        interval=(round(peak_mb - margin_mb, 3), round(highest_mb + margin_mb, 3)),
        activations=_highest_points(sizes),
    )


def _parts(sizes: ProgramMemory) -> Iterator[MemoryPart]:
    packed, weights = _at_load(sizes.delegates)
    workspace, tables = _at_run(sizes.delegates)
    at_start, more = _runner_mb(sizes)
    everything = sum(delegate.packed for delegate in sizes.delegates)
    nodes = sum(len(delegate.points) for delegate in sizes.delegates)
    kept = sizes.program_bytes + sizes.constant_bytes
    yield _part("runner and libraries", at_start * MB, (at_start + more) * MB)
    yield _part("program", kept, kept)
    yield _part("weights as stored", weights, 0)
    yield _part("packed weights", packed, everything)
    yield _part("kernel tables", 0, tables)
    yield _part("live activations", 0, workspace)
    yield _part("planned arena", 0, sizes.planned_bytes)
    yield _part("input buffers", 0, sizes.input_bytes)
    slack = nodes * sizes.runner.node_mb * MB
    yield _part("allocator slack", slack, slack)


def _part(name: str, load_bytes: float, run_bytes: float) -> MemoryPart:
    return MemoryPart(name=name, load_mb=round(load_bytes / MB, 3), run_mb=round(run_bytes / MB, 3))


def _runner_mb(sizes: ProgramMemory) -> tuple[float, float]:
    """The runner's own memory at loading, and what running adds."""
    constants = sizes.runner
    start_mb, more_mb = constants.start_mb, constants.run_mb
    if sizes.libraries > DELEGATE_LIBRARIES:
        start_mb += constants.library_start_mb
        more_mb += constants.library_run_mb + sizes.kernels * constants.kernel_mb
    return start_mb, more_mb


def _at_load(delegates: tuple[DelegateMemory, ...]) -> tuple[int, int]:
    """Packed weights and stored weights at the peak of loading.

    Delegates load one after the other; each one's stored weights are freed once they are packed.
    """
    packed, highest = 0, (0, 0)
    for delegate in delegates:
        packed += delegate.packed
        highest = max(highest, (packed, delegate.weight_bytes), key=sum)
    return highest


def _at_run(delegates: tuple[DelegateMemory, ...]) -> tuple[int, int]:
    """The delegates' common workspace and their tables, at the peak of the first inference.

    If a delegate needs a larger workspace than those before it, both exist for a moment.
    """
    tables, workspace = 0, 0
    highest = (0, 0)
    for delegate in delegates:
        tables += delegate.table_bytes
        needed = delegate.peak.live_bytes
        if needed > workspace:
            highest = max(highest, (workspace + needed, tables), key=sum)
            workspace = needed
    return max(highest, (workspace, tables), key=sum)


def _highest_points(sizes: ProgramMemory) -> tuple[ActivationPoint, ...]:
    points = [
        ActivationPoint(
            operator=point.operator,
            instruction=delegate.instruction,
            index=index,
            live_mb=round(point.live_bytes / MB, 3),
        )
        for delegate in sizes.delegates
        for index, point in enumerate(delegate.points)
    ]
    return tuple(sorted(points, key=lambda point: -point.live_mb)[:HIGHEST_POINTS])
