"""Which operators XNNPACK computes as one: small graphs."""

from __future__ import annotations

import pytest

from edgekit.cost.sizes import Step, live_points
from edgekit.runtimes.executorch.memory import fused_steps

# 0 -> convolution -> 1 -> to float -> 2 -> tanh -> 3 -> to int8 -> 4 -> convolution -> 5
STEPS = (
    Step("Conv2d", (0,), (1,)),
    Step("Convert", (1,), (2,)),
    Step("Tanh", (2,), (3,), reuses_input=True),
    Step("Convert", (3,), (4,)),
    Step("Conv2d", (4,), (5,)),
)
SIZES = {1: 10, 2: 40, 3: 40, 4: 10}
INTEGERS = {0, 1, 4, 5}


def peak(steps, integers=INTEGERS, sizes=SIZES) -> int:
    points = live_points(fused_steps(steps, sizes, integers), sizes)
    assert len(points) == len(steps)
    return max(point.live_bytes for point in points)


def test_float_values_between_conversions_never_exist() -> None:
    assert max(point.live_bytes for point in live_points(STEPS, SIZES)) == 50
    assert peak(STEPS) == 10


@pytest.mark.parametrize("operator", ["Softmax", "Add"])
def test_operators_that_are_no_table_stay(operator) -> None:
    steps = [*STEPS[:2], STEPS[2]._replace(operator=operator), *STEPS[3:]]
    assert fused_steps(steps, SIZES, INTEGERS) == steps


def test_values_that_something_else_reads_stay() -> None:
    """SiLU: the float value is multiplied by its sigmoid."""
    steps = [
        *STEPS[:2],
        Step("Sigmoid", (2,), (3,), reuses_input=True),
        Step("Multiply", (2, 3), (6,)),
        Step("Convert", (6,), (4,)),
        STEPS[4],
    ]
    sizes = SIZES | {6: 40}
    assert fused_steps(steps, sizes, INTEGERS) == steps
    external = {number: size for number, size in SIZES.items() if number != 3}
    assert fused_steps(STEPS, external, INTEGERS) == list(STEPS)


def test_conversions_of_other_types_stay() -> None:
    assert fused_steps(STEPS, SIZES, {0, 1}) == list(STEPS)
    assert peak(STEPS, integers=set()) == 50
