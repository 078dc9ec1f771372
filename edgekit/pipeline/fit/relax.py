"""Where nothing fits: the smallest limits with which something would, as far as costs are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from edgekit.budget import BudgetName, round_up
from edgekit.documents.verdict import Relaxation
from edgekit.pipeline.fit.goals import SEARCHED, Goals
from edgekit.pipeline.fit.meter import Cost

# Halvings of the way from a limit to the value of the model that nothing was removed from.
STEPS = 6
Feasible = Callable[[Goals], bool]


@dataclass(frozen=True)
class Relaxed:
    """Goals with which something fits. ``names``: of the budgets that are relaxed."""

    names: tuple[BudgetName, ...]
    goals: Goals

    def relaxation(
        self,
        goals: Goals,
        limits: Mapping[BudgetName, float],
        built: Mapping[BudgetName, float] | None = None,
    ) -> Relaxation:
        """The limits of the relaxed budgets. ``goals``: the values that meet ``limits``, what the
        user asked for. ``built``: the values of an artifact that was built for the relaxed goals.
        """
        values = built if built is not None else {n: getattr(self.goals, n) for n in self.names}
        budgets = {n: round_up(values[n] * limits[n] / getattr(goals, n)) for n in self.names}
        return Relaxation(budgets=budgets, verified=built is not None)


def relaxations(goals: Goals, feasible: Feasible) -> tuple[Relaxed, ...]:
    """Each budget alone; if none of them is enough alone, pairs of them."""
    asked = [name for name in SEARCHED if getattr(goals, name) is not None]
    for count in (1, 2):
        found = tuple(_relaxed(goals, feasible, combinations(asked, count)))
        if found:
            return found
    return ()


def values_of(cost: Cost, goals: Goals, names: Sequence[BudgetName]) -> dict[BudgetName, float]:
    """The costs of an artifact that are known, for some budgets."""
    known: dict[BudgetName, float | None] = {
        "latency_ms": goals.latency_ms_of(cost),
        "peak_memory_mb": goals.memory_mb_of(cost),
        "size_mb": goals.bundle_mb(cost),
    }
    return {name: value for name in names if (value := known[name]) is not None}


def _relaxed(
    goals: Goals, feasible: Feasible, chosen: Iterator[tuple[BudgetName, ...]]
) -> Iterator[Relaxed]:
    for names in chosen:
        share = _least_share(goals, names, feasible)
        if share is not None:
            yield Relaxed(names, goals.with_values(_values(goals, names, share)))


def _least_share(goals: Goals, names: tuple[BudgetName, ...], feasible: Feasible) -> float | None:
    """The least share of the way at which something fits; None if nothing does even at the end."""
    low, high = 0.0, 1.0
    if not feasible(goals.with_values(_values(goals, names, high))):
        return None
    for _ in range(STEPS):
        middle = (low + high) / 2
        if feasible(goals.with_values(_values(goals, names, middle))):
            high = middle
        else:
            low = middle
    return high


def _values(goals: Goals, names: tuple[BudgetName, ...], share: float) -> dict[str, float]:
    ends = {
        "latency_ms": goals.base.latency.value if goals.base.latency is not None else 0.0,
        "peak_memory_mb": goals.base_memory_mb,
        "size_mb": goals.base_size_mb,
    }
    return {
        name: getattr(goals, name) + share * max(0.0, ends[name] - getattr(goals, name))
        for name in names
    }
