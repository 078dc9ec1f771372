"""The fit to measured operators, on times by a known rule."""

from __future__ import annotations

import math

import pytest
from calibrations import (
    COLUMNS,
    ROWS,
    addition,
    calibration,
    convolution,
    latency_ms,
    network,
    programs,
)

from edgekit.cost.calibration.features import (
    Group,
    Placed,
    Tile,
    group_of,
    groups_of,
    placed,
)
from edgekit.cost.calibration.fit import Timed, fit_group, fit_groups
from edgekit.cost.calibration.predict import LEAST, fit_programs, predictor, with_left_out
from edgekit.cost.shapes import LINEAR, OperatorShape


def timed(shapes, rule=latency_ms) -> list[Timed]:
    return [Timed(operator, rule(operator.shape)) for operator in placed(shapes)]


def test_the_tile_of_the_kernels_is_found() -> None:
    shapes = [
        convolution(size, inputs, outputs)
        for size in (5, 9, 14)
        for inputs in (8, 33)
        for outputs in (3, 16, 24, 30, 47, 65)
    ]
    fit = fit_group(group_of(shapes[0]), timed(shapes))
    assert (fit.tile.columns, fit.tile.rows) == (COLUMNS, ROWS)
    unseen = convolution(11, 20, 70)
    assert fit.latency_ms(placed([unseen])[0]) == pytest.approx(latency_ms(unseen), rel=0.01)


def test_eight_channels_may_take_as_long_as_sixteen() -> None:
    fit = fit_programs(programs())
    narrow, wide, wider = (
        fit.estimate([convolution(16, 32, outputs)]).latency_ms for outputs in (8, 16, 17)
    )
    assert narrow == pytest.approx(wide, rel=0.03)
    assert wider > 1.5 * wide


def test_a_program_that_was_not_fitted() -> None:
    found = fit_programs(programs()).estimate(network("another").shapes)
    assert found.latency_ms == pytest.approx(network("another").latency_ms, rel=0.03)
    assert not found.unknown


def test_what_the_formula_misses_is_learned_from_near_shapes() -> None:
    """An operator that is twice as slow for few channels, which no amount can tell."""

    def rule(shape) -> float:
        return latency_ms(shape) * (2 if shape.outputs[0][-1] < 40 else 1)

    shapes = [addition(size, channels) for size in (8, 16, 32) for channels in range(8, 80, 3)]
    fit = fit_group(group_of(shapes[0]), timed(shapes, rule))
    for channels in (20, 60):
        unseen = addition(24, channels)
        assert fit.latency_ms(Placed(unseen, 0)) == pytest.approx(rule(unseen), rel=0.15)


def test_operators_that_were_fused_into_others_do_not_count() -> None:
    add = addition(8, 16)
    fused = fit_groups([Timed(Placed(add, 0), 0.0)])[group_of(add)]
    assert fused.latency_ms(Placed(add, 0)) == 0
    other = addition(16, 16)
    half = fit_group(group_of(add), [Timed(Placed(add, 0), 0.0), *timed([other])])
    assert half.latency_ms(Placed(other, 0)) == pytest.approx(latency_ms(other) / 2, rel=0.01)


def test_a_conversion_that_is_fused_into_one_operator_is_not_into_another() -> None:
    """Around the table of a function, and not around a sum."""
    size = 16

    def converted(kind: str) -> list[OperatorShape]:
        places = enumerate((("convert", "fp32"), (kind, "fp32"), ("convert", "int8")))
        return [
            addition(size, 16, kind=one, precision=precision, index=index)
            for index, (one, precision) in places
        ]

    table, sums = converted("tanh"), converted("add")
    times = [
        *zip(placed(table), (0.0, 1.0, 0.0), strict=True),
        *zip(placed(sums), (0.5, 1.0, 0.5), strict=True),
    ]
    fits = fit_groups([Timed(*each) for each in times])
    for shapes, expected in ((table, 1.0), (sums, 2.0)):
        groups = [(groups_of(operator)[0], operator) for operator in placed(shapes)]
        total = sum(fits[group].latency_ms(operator) for group, operator in groups)
        assert total == pytest.approx(expected, rel=0.01)


def test_repeated_operators_count_once() -> None:
    """A thousand times the same one, and one measurement of another shape."""
    one, other = addition(8, 16), addition(64, 64)
    repeated = [one.replaced(instruction=number) for number in range(1000)]
    fit = fit_groups(timed([*repeated, other]))[group_of(one)]
    assert fit.latency_ms(Placed(other, 0)) == pytest.approx(latency_ms(other), rel=0.02)


def test_a_pointwise_convolution_is_a_product_like_a_linear_layer() -> None:
    plain = convolution(8, 16, 16, kernel=(1, 1), macs=8 * 8 * 16 * 16)
    assert group_of(plain) == Group(LINEAR, "fp32", "product")
    assert group_of(plain.replaced(stride=(2, 2))).kind == "convolution"
    assert group_of(plain.replaced(precision="int8")) != group_of(plain)


def test_layers_of_one_row_have_two_kernels() -> None:
    """The narrow kernel is slower, and is chosen where it computes fewer columns."""

    def rule(shape) -> float:
        columns = shape.outputs[0][-1]
        computed = math.ceil(columns / 16) * 16
        return computed * shape.inputs[0][-1] * (1e-6 if computed % 32 == 0 else 1.5e-6) + 1e-5

    def row(depth: int, columns: int) -> OperatorShape:
        dims = {"inputs": ((1, depth),), "outputs": ((1, columns),), "kernel": (1, 1)}
        return convolution(1, depth, columns, kind=LINEAR, macs=depth * columns, **dims)

    shapes = [row(depth, columns) for depth in (30, 90, 200) for columns in range(20, 300, 13)]
    fit = fit_group(group_of(shapes[0]), timed(shapes, rule))
    for columns in (128, 138, 170):
        unseen = placed([row(150, columns)])[0]
        assert fit.latency_ms(unseen) == pytest.approx(rule(unseen.shape), rel=0.05)


def test_columns_of_a_narrow_kernel() -> None:
    tile = Tile(rows=7, columns=32, narrow=16)
    assert [tile.columns_of(count) for count in (3, 16, 17, 33)] == [16, 16, 32, 64]


def test_weights_of_a_large_program_may_come_from_memory() -> None:
    """The same layer takes twice as long in a program whose weights no cache holds."""
    shapes = [
        convolution(size, inputs, outputs)
        for size in (5, 8)
        for inputs in (20, 33, 50)
        for outputs in (16, 20, 40, 47, 80)  # enough of them that only one tile explains all
    ]
    small = [Timed(Placed(one, 100_000), latency_ms(one)) for one in shapes]
    large = [
        Timed(Placed(one, 30_000_000), latency_ms(one) + one.weight_bytes * 1e-7) for one in shapes
    ]
    fit = fit_group(group_of(shapes[0]), small + large)
    unseen = convolution(8, 30, 60)
    for size, expected in (
        (100_000, latency_ms(unseen)),
        (30_000_000, latency_ms(unseen) + unseen.weight_bytes * 1e-7),
    ):
        assert fit.latency_ms(Placed(unseen, size)) == pytest.approx(expected, rel=0.05)


def test_programs_are_left_out_with_all_their_precisions() -> None:
    """Their operators are the same, so that either would tell the other's time."""
    both = [network("only").replaced(precision=precision) for precision in ("fp32", "int8")]
    slow = [
        one.replaced(
            operator_ms=tuple(3 * each for each in one.operator_ms), latency_ms=3 * one.latency_ms
        )
        for one in both
    ]
    found = {
        (one.network, one.precision): one.left_out_error
        for one in with_left_out([*programs(), *slow])
    }
    assert found["only", "fp32"] == pytest.approx(-2 / 3, abs=0.05)
    assert found["only", "int8"] == pytest.approx(-2 / 3, abs=0.05)


def test_no_interval_is_narrower_than_the_errors_of_what_was_left_out() -> None:
    exact, shapes = predictor(calibration(), 1), network("another").shapes
    value = exact.predict(shapes).latency_ms
    assert exact.predict(shapes).interval_ms[1] == pytest.approx(value * (1 + LEAST))
    factors = (1.25, 0.8, 1.1, 0.9, 1.2, 0.85)
    wrong = [
        one.replaced(
            left_out_ms=one.latency_ms * factor,
            left_out_operator_ms=tuple(factor * each for each in one.operator_ms),
        )
        for one, factor in zip(exact.programs, factors, strict=True)
    ]
    found = predictor(calibration(programs=tuple(wrong)), 1)
    for one in found.programs:
        low, high = found.left_out_interval(one)
        assert low <= one.latency_ms <= high
    low, high = found.predict(shapes).interval_ms
    assert low <= value / 1.2
    assert high >= value * 1.2


def test_a_program_of_well_predicted_operators_has_a_narrower_interval() -> None:
    """Additions are predicted wrongly, convolutions are not."""
    wrong = []
    for one in predictor(calibration(), 1).programs:
        times = [
            each * (1.0 if shape.macs else 2.0)
            for shape, each in zip(one.shapes, one.operator_ms, strict=True)
        ]
        wrong.append(
            one.replaced(
                left_out_operator_ms=tuple(times),
                left_out_ms=one.latency_ms - sum(one.operator_ms) + sum(times),
            )
        )
    found = predictor(calibration(programs=tuple(wrong)), 1)
    widths = []
    for shapes in ([convolution(12, 40, 40)], [addition(24, 60)]):
        low, high = found.predict(shapes).interval_ms
        widths.append(high / low)
    assert widths[1] > 1.5 * widths[0]


def test_an_unknown_kind_is_named_and_widens_the_interval() -> None:
    chosen = predictor(calibration(), 1)
    known = network("another").shapes
    strange = addition(64, 64, kind="fold", precision="fp32")
    found = chosen.predict([*known, strange, strange])
    assert found.unknown == ("fold (fp32)",)
    bare = chosen.predict(known)
    assert found.latency_ms > bare.latency_ms
    assert found.interval_ms[0] == pytest.approx(bare.interval_ms[0], rel=0.02)
    assert found.interval_ms[1] - bare.interval_ms[1] > 2 * (found.latency_ms - bare.latency_ms)


def test_threads_are_fitted_apart() -> None:
    shapes = network("another").shapes
    one, four = (predictor(calibration(), threads) for threads in (1, 4))
    assert one.predict(shapes).latency_ms > 3 * four.predict(shapes).latency_ms
    assert predictor(calibration(), 2) is None
