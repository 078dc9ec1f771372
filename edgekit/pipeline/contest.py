"""Which of two bundles of one model is better on the target, and by how much."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edgekit.budget import BudgetLine, BudgetName, Figure, Origin
from edgekit.bundle.manifest import read_manifest
from edgekit.cost.prediction import predicted_latency
from edgekit.cost.shapes import OperatorShape
from edgekit.device.facts.probe import environment_of
from edgekit.documents.verdict import VerdictDocument
from edgekit.errors import RunnerError
from edgekit.measure.golden import golden_inputs
from edgekit.measure.paired_latency import Placed, alternate
from edgekit.pipeline.bundle_build import Built, BundleBuild
from edgekit.pipeline.fit.outcome import budget_rank, line_of, value_of
from edgekit.pipeline.precision.ladder import DEFAULT_MAX_DROP
from edgekit.progress import Silent
from edgekit.store.store import installed_on

# Smaller differences do not decide: points of accuracy, a share of latency or memory, and
# milliseconds, which a shared machine cannot tell apart.
SAME_POINTS, SAME_SHARE, SAME_MS = 0.5, 0.05, 0.005


@dataclass(frozen=True)
class Ratio:
    """The latency of the second bundle divided by the first's, and its interval (RuntimeCandidate).
    ``first_ms``: the first's. ``where``: of the measurement or prediction, in words.
    """

    middle: float
    low: float
    high: float
    first_ms: float
    source: Origin
    where: str

    @property
    def decides(self) -> bool:
        """Whether there is a difference beyond chance, and not a small one."""
        shown = self.low > 1 or self.high < 1
        difference_ms = abs(self.middle - 1) * self.first_ms
        return shown and differ(self.middle) and difference_ms > SAME_MS

    @property
    def inverse(self) -> Ratio:
        second_ms = self.first_ms * self.middle
        numbers = (1 / self.middle, 1 / self.high, 1 / self.low)
        return Ratio(*numbers, second_ms, self.source, self.where)

    def text(self, first: str) -> str:
        interval = f"{self.low:.2f} to {self.high:.2f}"
        return (
            f"latency {self.middle:.2f}x that of {first} ({interval}), {self.source} {self.where}"
        )


class Rival(NamedTuple):
    """``document``: of the build, or of a search that followed it."""

    built: Built
    document: VerdictDocument


@dataclass(frozen=True)
class Contest:
    """``what``: what the winner does better. ``ratio``: the loser's latency divided by the
    winner's; None if unknown.
    """

    winner: VerdictDocument
    loser: VerdictDocument
    what: str
    ratio: Ratio | None

    @property
    def reason(self) -> str:
        """What the loser lost by."""
        name = self.winner.runtime
        compared = f"; {self.ratio.text(name)}" if self.ratio is not None else ""
        return f"{name} {self.what}{compared}"


def contest(job: BundleBuild, first: Rival, second: Rival) -> Contest:
    """Compare budgets first, then losses that no budget allows, latency, smaller losses and
    memory; the first wins if all are equal.

    On the named device both are timed in alternating rounds. Without one, or on an emulated one,
    predictions are compared: a difference within their intervals is not claimed, but decides if
    nothing else does.
    """
    one, other = first.document, second.document
    ratio = _ratio(job, first, second)
    limit = job.limits.get("accuracy_drop")
    allowed = limit.value if limit is not None else DEFAULT_MAX_DROP
    second_wins, what = better(one, other, ratio, allowed)
    if second_wins:
        return Contest(other, one, what, ratio.inverse if ratio is not None else None)
    return Contest(one, other, what, ratio)


def better(
    first: VerdictDocument,
    second: VerdictDocument,
    ratio: Ratio | None,
    allowed: float = DEFAULT_MAX_DROP,
) -> tuple[bool, str]:
    """Whether the second wins, and what the winner does better. ``allowed``: the points that may
    be lost.
    """
    ranks = budget_rank(first), budget_rank(second)
    if ranks[0][:2] != ranks[1][:2]:
        return ranks[1] < ranks[0], "meets more budgets"
    if abs(ranks[0][2] - ranks[1][2]) > SAME_SHARE:
        return ranks[1] < ranks[0], "is nearer to the budgets"
    losses = _loss(first), _loss(second)
    differs = abs(losses[0] - losses[1]) >= SAME_POINTS
    if differs and max(losses) > allowed:
        return losses[1] < losses[0], "loses less accuracy"
    if ratio is not None and ratio.decides:
        return ratio.middle < 1, "is faster"
    if differs:
        return losses[1] < losses[0], "loses less accuracy, and latency does not decide"
    for name, value in _shares(first, second, ratio):
        if differ(value):
            return value < 1, f"has {name}"
    return False, "is the target's first; no difference is shown"


def differ(ratio: float) -> bool:
    """Whether a ratio is more than SAME_SHARE from 1, in either direction alike."""
    return max(ratio, 1 / ratio) > 1 + SAME_SHARE


def _loss(document: VerdictDocument) -> float:
    """The points lost: on evaluate(), else as the ladder judged the chosen rung; 0 if unknown."""
    drop = value_of(document, "accuracy_drop")
    taken = next((rung.drop for rung in document.ladder if rung.taken), None)
    return drop if drop is not None else taken or 0.0


def _shares(
    first: VerdictDocument, second: VerdictDocument, ratio: Ratio | None
) -> list[tuple[str, float]]:
    """What may decide at last: the second's value divided by the first's."""
    found = []
    if ratio is not None and ratio.source == "predicted":
        title = "the lower predicted latency, though within the prediction's range"
        found.append((title, ratio.middle))
    unknown = "latency does not decide" if ratio is not None else "latency is unknown"
    names: list[tuple[BudgetName, str]] = [
        ("peak_memory_mb", "the lower peak memory"),
        ("size_mb", "fewer MB"),
    ]
    for name, title in names:
        values = [value_of(one, name) for one in (first, second)]
        if values[0] and values[1]:
            found.append((f"{title}; {unknown}", values[1] / values[0]))
    return found


def _ratio(job: BundleBuild, first: Rival, second: Rival) -> Ratio | None:
    if job.transport is not None and environment_of(job.transport).emulated is False:
        return _measured(job, first.document, second.document)
    figures = [_predicted(one) for one in (first, second)]
    if figures[0] is None or figures[1] is None:
        return None
    one, other = figures[0], figures[1]
    low, high = one.interval or (one.value, one.value)
    other_low, other_high = other.interval or (other.value, other.value)
    middle, where = other.value / one.value, f"for {job.target.name}"
    return Ratio(middle, other_low / high, other_high / low, one.value, "predicted", where)


def _measured(job: BundleBuild, first: VerdictDocument, second: VerdictDocument) -> Ratio | None:
    assert job.transport is not None
    try:
        with job.progress.stage(f"timing both runtimes on {job.transport.name}"):
            placed = [_placed(job, Path(one.bundle)) for one in (first, second)]
            found = alternate(placed[1], placed[0])
    except RunnerError as error:
        job.progress.note(f"the runtimes were not timed together: {error.message}")
        return None
    assert found.ratio is not None
    return Ratio(*found.ratio, found.second_ms, "measured", f"on {job.transport.name}")


def _placed(job: BundleBuild, folder: Path) -> Placed:
    assert job.transport is not None
    manifest = read_manifest(folder)
    at = installed_on(job.transport, folder, manifest, None, Silent())
    return Placed(at, golden_inputs(folder, manifest), manifest.threads)


def _predicted(rival: Rival) -> Figure | None:
    """The latency that the bundle was judged by; predicted now if its device is emulated."""
    document, job = rival.document, rival.built.job
    line = line_of(document, "latency_ms")
    if line.value is not None:
        return _figure(line)
    if job.transport is None or not job.engine.runs_here:
        return None
    folder = Path(document.bundle)
    manifest = read_manifest(folder)
    inputs = golden_inputs(folder, manifest)

    def shapes() -> tuple[OperatorShape, ...] | None:
        return job.engine.operator_shapes(rival.built.result.artifact)

    found = predicted_latency(folder, manifest, inputs, shapes, job.target, job.progress)
    return None if isinstance(found, str) else found.figure


def _figure(line: BudgetLine) -> Figure:
    assert line.value is not None and line.source is not None
    return Figure(value=line.value, source=line.source, interval=line.interval)
