"""The work of searches is counted: what is allowed is tried, likeliest first, and nothing more."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from edgekit.plan import Plan
from edgekit.progress import Silent
from edgekit.search import repairs
from edgekit.search.repairs import Split, find_repairs
from edgekit.search.work_limit import LEAST_INPUTS, Allowance

VALUES = 1000
PLAIN = Plan(precision="int8")
DATA = Split(fitted=[()] * 8, judged=[()] * 2)


class Simulated:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    @contextmanager
    def rounding(self, wanted):
        yield

    def run(self, data):
        return self.plan


@pytest.fixture
def search(monkeypatch):
    """Search with a divergence for each plan; give what was found and what was tried."""

    def run(divergence, work: float):
        tried: list[Plan] = []

        def simulate(plan):
            if plan not in tried:
                tried.append(plan)
            return Simulated(plan)

        monkeypatch.setattr(repairs, "values_of", lambda simulation: VALUES)
        monkeypatch.setattr(
            repairs,
            "compare_outputs",
            lambda fidelity, plan, floats: SimpleNamespace(divergence=divergence(plan)),
        )
        found = find_repairs(PLAIN, simulate, DATA, [], None, work, Silent())
        return found, tried[1:]

    return run


def helped(plan: Plan) -> float:
    left = 1.0
    left *= 0.5 if plan.observer == "mse_after_activation" else 1.0
    left *= 0.5 if plan.correct else 1.0
    return left * (0.5 if plan.round else 1.0)


def test_without_work_nothing_is_tried(search) -> None:
    found, tried = search(helped, 0)
    assert found.plan == PLAIN
    assert tried == []


def test_with_enough_work_every_step_is_tried(search) -> None:
    found, tried = search(helped, 1e9)
    assert found.plan.correct and found.plan.round
    assert found.divergence == 0.125
    assert len(tried) == 9


def test_the_likeliest_comes_first_and_the_same_work_tries_the_same(search) -> None:
    little = VALUES * 18 / 0.35  # one try of ranges
    found, tried = search(helped, little)
    assert tried[0].observer == "mse_after_activation"
    assert tried[0].equalize is not None
    assert search(helped, little) == (found, tried)
    more = search(helped, 2 * little)[1]
    assert len(more) > len(tried)


def test_a_step_without_gain_is_the_last(search) -> None:
    _, tried = search(lambda plan: 1.0 if plan.is_plain else 0.9, 1e9)
    assert not any(plan.round for plan in tried)
    assert any(plan.correct for plan in tried)


def test_as_many_inputs_as_the_work_allows() -> None:
    data = list(range(100))
    assert Allowance(1e9).affordable(data, runs=10, values=10) == data
    affordable = Allowance(2000).affordable(data, runs=10, values=10)
    assert affordable == data[::5]
    assert len(Allowance(0).affordable(data, runs=10, values=10)) == LEAST_INPUTS
    assert Allowance(0).affordable([7], runs=1, values=1) == [7]
