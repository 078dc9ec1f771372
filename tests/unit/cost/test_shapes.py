"""Times of operators, from the rows of a profile."""

from __future__ import annotations

import pytest

from edgekit.cost.shapes import OperatorShape, times_by_operator


def shape(index: int) -> OperatorShape:
    return OperatorShape(
        kind="add",
        precision="fp32",
        inputs=((1, 8),),
        outputs=((1, 8),),
        weight_bytes=4,
        activation_bytes=64,
        delegated=True,
        layer="a",
        instruction=0,
        index=index,
    )


def test_rows_of_one_operator_add_up_and_a_fused_one_takes_no_time() -> None:
    shapes = [shape(0), shape(1), shape(2)]
    rows = [((0, 0), 1.0), (None, 0.25), ((0, 2), 2.0), ((0, 2), 0.5)]
    times = times_by_operator(shapes, rows, 4.0)
    assert [operator.latency_ms for operator in times.operators] == [1.0, 0.0, 2.5]
    assert times.rest_ms == pytest.approx(0.5)
    assert times.total_ms == pytest.approx(4.0)


def test_a_row_of_an_operator_that_the_program_has_not_belongs_to_the_rest() -> None:
    times = times_by_operator([shape(0)], [((7, 0), 1.0)], 1.5)
    assert times.operators[0].latency_ms == 0
    assert times.rest_ms == 1.5


def test_bytes_are_those_of_weights_and_activations() -> None:
    assert shape(0).byte_count == 68
