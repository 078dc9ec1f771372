"""Where nothing fits: the smallest limits with which something would, as far as costs are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations

from edgekit.budget import BudgetName, round_up
from edgekit.documents.verdict import Relaxation
from edgekit.pipeline.fit.goals import SEARCHED, Goals

# Halvings of the way from a limit to the value of the model that nothing was removed from.
STEPS = 6
Feasible = Callable[[Goals], bool]


def relaxations(
    goals: Goals, limits: Mapping[BudgetName, float], feasible: Feasible
) -> tuple[Relaxation, ...]:
    """Each budget alone; if none of them is enough alone, pairs of them.

    ``limits``: what the user asked for; ``goals`` are the values that meet these limits.
    """
    asked = [name for name in SEARCHED if getattr(goals, name) is not None]
    for count in (1, 2):
        found = list(_relaxed(goals, limits, feasible, combinations(asked, count)))
        if found:
            return tuple(found)
    return ()


def _relaxed(
    goals: Goals,
    limits: Mapping[BudgetName, float],
    feasible: Feasible,
    chosen: Iterator[tuple[BudgetName, ...]],
) -> Iterator[Relaxation]:
    for names in chosen:
        share = _least_share(goals, names, feasible)
        if share is not None:
            values = _values(goals, names, share)
            factors = {name: limits[name] / getattr(goals, name) for name in names}
            budgets = {name: round_up(values[name] * factors[name]) for name in names}
            yield Relaxation(budgets=budgets, verified=False)


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
