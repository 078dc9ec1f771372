"""The values that the budgets leave for latency, memory and size, so that whole intervals fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edgekit.budget import BudgetLine, BudgetName
from edgekit.documents.verdict import VerdictDocument
from edgekit.pipeline.fit.meter import Cost

SEARCHED: tuple[BudgetName, ...] = ("latency_ms", "peak_memory_mb", "size_mb")


@dataclass(frozen=True)
class Goals:
    """``latency_ms``, ``peak_memory_mb``, ``size_mb``: what values may be; None: no budget.
    ``base``: the costs of the model that nothing was removed from; ``base_memory_mb`` and
    ``base_size_mb``: of its bundle; ``base_memory_end_mb``: the end of its predicted interval, None
    if it was measured.
    """

    latency_ms: float | None
    peak_memory_mb: float | None
    size_mb: float | None
    base: Cost
    base_memory_mb: float
    base_size_mb: float
    base_memory_end_mb: float | None = None

    def with_values(self, values: Mapping[str, float]) -> Goals:
        """These goals with others for some budgets."""
        return Goals(**{**vars(self), **values})

    def latency_ms_of(self, cost: Cost) -> float | None:
        """An artifact's latency in the scale of the goal: at the goal, the interval of a prediction
        ends at the limit. Intervals of several threads grow with the number of operators, so that
        the value alone does not tell.
        """
        found, base = cost.latency, self.base.latency
        if found is None:
            return None
        if found.source == "measured" or found.interval is None:
            return found.value
        if base is None or base.interval is None:
            return found.value
        return found.interval[1] * base.value / base.interval[1]

    def memory_mb(self, cost: Cost) -> float | None:
        """The peak of an artifact: the base's, and the difference of the ledgers."""
        if cost.memory is None or self.base.memory is None:
            return None
        return self.base_memory_mb + cost.memory.peak_mb - self.base.memory.peak_mb

    def memory_mb_of(self, cost: Cost) -> float | None:
        """The peak in the scale of the goal, as latency_ms_of: a part of the interval is constant,
        so that small models have relatively wide ones.
        """
        if self.base_memory_end_mb is None or cost.memory is None or self.base.memory is None:
            return self.memory_mb(cost)
        more_mb = cost.memory.interval[1] - self.base.memory.interval[1]
        end_mb = self.base_memory_end_mb + more_mb
        return end_mb * self.base_memory_mb / self.base_memory_end_mb

    def bundle_mb(self, cost: Cost) -> float:
        return self.base_size_mb + cost.model_mb - self.base.model_mb

    def misses(self, cost: Cost) -> list[str]:
        """The names of the budgets that an artifact exceeds."""
        return list(self._misses(cost))

    def _misses(self, cost: Cost) -> Iterator[str]:
        for name, goal, value in (
            ("latency_ms", self.latency_ms, self.latency_ms_of(cost)),
            ("peak_memory_mb", self.peak_memory_mb, self.memory_mb_of(cost)),
            ("size_mb", self.size_mb, self.bundle_mb(cost)),
        ):
            if goal is not None and (value is None or value > goal):
                yield name


def open_budgets(document: VerdictDocument) -> list[BudgetLine]:
    """The budgets that were asked for, that a smaller model may meet, and that are not met."""
    return [
        line
        for line in document.budgets
        if line.name in SEARCHED and line.status in ("missed", "unknown")
    ]


def goals_of(document: VerdictDocument, base: Cost, model_mb: float) -> Goals:
    """``base``: the costs of the model in the precision of the search. ``model_mb``: the file of
    the document's bundle, which may have another precision.
    """
    lines = {line.name: line for line in document.budgets}
    latency_ms, peak = lines["latency_ms"].limit, lines["peak_memory_mb"]
    if base.latency is not None:
        latency_ms = _within(latency_ms, base.latency.value, base.latency.interval)
    memory_mb = peak.value or 0.0
    end_mb = None
    if peak.source == "predicted" and peak.interval is not None:
        end_mb = peak.interval[1]
    if document.memory is not None and base.memory is not None:
        memory_mb += base.memory.peak_mb - document.memory.peak_mb
        if end_mb is not None:
            end_mb += base.memory.interval[1] - document.memory.interval[1]
    return Goals(
        latency_ms=latency_ms,
        peak_memory_mb=_within(peak.limit, peak.value, peak.interval),
        size_mb=lines["size_mb"].limit,
        base=base,
        base_memory_mb=memory_mb,
        base_memory_end_mb=end_mb,
        base_size_mb=(lines["size_mb"].value or 0.0) + base.model_mb - model_mb,
    )


def _within(
    limit: float | None, value: float | None, interval: tuple[float, float] | None
) -> float | None:
    """The value whose interval ends at the limit, if intervals are relative."""
    if limit is None or value is None or interval is None:
        return limit
    return limit * value / interval[1]
