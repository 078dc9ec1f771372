"""The repairs of a runtime that quantizes after conversion: counted builds, likeliest first."""

from __future__ import annotations

import pytest

from edgekit.errors import RuntimeFailure
from edgekit.pipeline.precision.built_repairs import TRIALS, best_of
from edgekit.plan import Plan
from edgekit.progress import Silent
from edgekit.search.work_limit import BUILDS

PLAIN = Plan(precision="int8")


def searched(divergence, effort: str) -> tuple[Plan, list[Plan]]:
    """The best plan, and those that were built after plain int8."""
    built: list[Plan] = []

    def build(plan: Plan) -> float:
        built.append(plan)
        return divergence(plan)

    best = best_of(PLAIN, list(TRIALS), build, BUILDS[effort], Silent())
    return best, built[1:]


def equalized(plan: Plan) -> float:
    return 0.5 if plan.equalize else 1.0


@pytest.mark.parametrize(("effort", "most"), [("quick", 0), ("normal", 2), ("thorough", 4)])
def test_builds_without_gain_are_limited(effort, most) -> None:
    best, built = searched(lambda plan: 1.0, effort)
    assert best == PLAIN
    assert len(built) == most


def test_a_gain_lets_the_search_go_on() -> None:
    best, built = searched(equalized, "normal")
    assert best == PLAIN.replaced(equalize=0.5)
    assert len(built) == 4
    assert all(plan.equalize for plan in built[1:])


def test_each_repair_starts_from_the_best_plan() -> None:
    gains = {"mse": 0.8, "percentile": 0.9}

    def divergence(plan: Plan) -> float:
        return gains.get(plan.observer, 1.0) * equalized(plan) * (0.5 if plan.correct else 1.0)

    best, built = searched(divergence, "normal")
    assert best == PLAIN.replaced(observer="mse", equalize=0.5, correct=True)
    assert built[-1] == best.replaced(observer="percentile")


def test_what_cannot_be_built_has_no_gain() -> None:
    def divergence(plan: Plan) -> float:
        if plan.observer == "mse":
            raise RuntimeFailure("no such range")
        return equalized(plan)

    best, _ = searched(divergence, "normal")
    assert best == PLAIN.replaced(equalize=0.5)
