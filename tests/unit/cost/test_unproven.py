"""Which programs get a wider interval."""

from __future__ import annotations

import pytest
from programs import program

from edgekit.cost.latency import Factors
from edgekit.cost.unproven import unproven_operators, widened


def test_a_convolutional_network_is_proven() -> None:
    names = ("Convert", "Conv2d", "DepthwiseConv2d", "Clamp", "GlobalAvgPooling2d", "Add")
    assert unproven_operators(program(*names)) == []
    assert unproven_operators(program("CONV_2D", "FULLY_CONNECTED", "CONCATENATION")) == []


@pytest.mark.parametrize(
    ("names", "outside", "expected"),
    [
        (("Conv2d", "BatchMatrixMultiply", "SoftMax"), None, ["BatchMatrixMultiply", "SoftMax"]),
        (("Conv2d",), "aten::cumsum.out", ["aten::cumsum.out"]),
        (("Conv2d",), "aten::add.out", ["aten::add.out"]),
        (("FullyConnected", "Clamp"), None, ["models without convolutions"]),
    ],
)
def test_others_are_named(names: tuple[str, ...], outside: str | None, expected: list[str]) -> None:
    assert unproven_operators(program(*names, outside=outside)) == expected


def test_the_interval_is_wider_for_them() -> None:
    assert widened(Factors(0.8, 1.5), []) == (0.8, 1.5)
    low, high = widened(Factors(0.8, 1.5), ["SoftMax"])
    assert low < 0.8 and high > 1.5
