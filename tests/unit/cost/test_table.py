"""Costs of programs from the operators of others: interpolation, steps, intervals."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from edgekit.cost.shapes import OperatorShape, OperatorTimes, TimedOperator
from edgekit.cost.table import (
    ARM,
    ARM_DOT_PRODUCTS,
    X86,
    CostTable,
    channel_steps,
    fitted_rates,
    stepped_macs,
)
from edgekit.target import load_target

NS_OF_MAC, NS_OF_BYTE, FIXED_NS = 0.02, 0.05, 300.0
SIZES = ((32, 1), (16, 2), (8, 4))  # of a map, and how many times the channels
REST_OF_OPERATOR_MS = 0.0001


def convolution(layer: str, size: int, read: int, written: int, **changes) -> OperatorShape:
    weights = 9 * read * written
    values = {
        "kind": "convolution",
        "precision": "int8",
        "inputs": ((1, size, size, read),),
        "outputs": ((1, size, size, written),),
        "kernel": (3, 3),
        "weight_bytes": weights,
        "activation_bytes": size * size * (read + written),
        "macs": size * size * weights,
        "delegated": True,
        "layer": layer,
        "instruction": 0,
        "index": 0,
    }
    return OperatorShape(**(values | changes))


def true_ms(shape: OperatorShape) -> float:
    """A made-up machine that computes 16 channels at once."""
    work = NS_OF_MAC * stepped_macs(shape, X86) + NS_OF_BYTE * shape.byte_count
    return (FIXED_NS + work) / 1e6


def network(*widths: int) -> list[OperatorShape]:
    """A convolution for each size; ``widths``: what each writes."""
    read, shapes = 3, []
    for number, ((size, times), width) in enumerate(zip(SIZES, widths, strict=True)):
        shapes.append(convolution(f"conv{number}", size, read, width * times))
        read = width * times
    return shapes


def measured(shapes: list[OperatorShape], factor: float = 1.0) -> OperatorTimes:
    operators = tuple(TimedOperator(shape, true_ms(shape) * factor) for shape in shapes)
    return OperatorTimes(operators, REST_OF_OPERATOR_MS * len(shapes))


KNOWN = [network(width, width, width) for width in (64, 48, 32, 16)]


@pytest.fixture
def table() -> CostTable:
    return CostTable(tuple(map(measured, KNOWN)), "measured", X86)


def test_a_known_program_costs_what_it_did(table) -> None:
    for shapes in KNOWN:
        assert table.program(shapes).latency_ms == pytest.approx(measured(shapes).total_ms)


@pytest.mark.parametrize("widths", [(64, 16, 32), (24, 40, 56), (16, 64, 16)])
def test_other_widths_are_interpolated_layer_by_layer(table, widths) -> None:
    shapes = network(*widths)
    cost = table.program(shapes)
    assert cost.latency_ms == pytest.approx(measured(shapes).total_ms, rel=0.05)
    assert cost.interval[0] <= measured(shapes).total_ms <= cost.interval[1]
    assert (cost.source, cost.unknown) == ("measured", ())


def test_costs_of_operators_and_the_rest_add_up(table) -> None:
    shapes = network(24, 40, 56)
    operators_ms = sum(table.operator(shape).latency_ms for shape in shapes)
    rest_ms = REST_OF_OPERATOR_MS * len(shapes)
    assert table.program(shapes).latency_ms == pytest.approx(operators_ms + rest_ms)


def test_eight_channels_take_as_long_as_sixteen() -> None:
    eight, sixteen = (convolution("a", 8, 16, width) for width in (8, 16))
    assert stepped_macs(eight, X86) == stepped_macs(sixteen, X86) == sixteen.macs
    floating = eight.replaced(precision="fp32")
    assert stepped_macs(floating, ARM_DOT_PRODUCTS) == floating.macs
    assert stepped_macs(eight, ARM_DOT_PRODUCTS) == sixteen.macs
    assert stepped_macs(eight, ARM) == eight.macs
    half, wide = (one.replaced(precision="fp16") for one in (eight, sixteen))
    assert stepped_macs(half, ARM_DOT_PRODUCTS) == stepped_macs(wide, ARM_DOT_PRODUCTS)


@pytest.mark.parametrize(
    ("target", "steps"), [("x86", X86), ("rpi4", ARM), ("rpi5", ARM_DOT_PRODUCTS)]
)
def test_steps_are_those_of_the_processor(target, steps) -> None:
    assert channel_steps(load_target(target)) == steps


def test_steps_of_depthwise_and_grouped_convolutions() -> None:
    depthwise = convolution("a", 8, 1, 24, kind="depthwise", groups=24)
    assert stepped_macs(depthwise, X86) == depthwise.macs * 32 / 24
    assert stepped_macs(depthwise, ARM_DOT_PRODUCTS) == depthwise.macs
    grouped = convolution("a", 8, 4, 32, groups=4)
    assert stepped_macs(grouped, X86) == grouped.macs * 2
    adding = convolution("a", 8, 4, 8, kind="add")
    assert stepped_macs(adding, X86) == adding.macs


def test_a_layer_that_is_not_known_is_like_the_nearest_of_its_kind(table) -> None:
    other = convolution("new", 16, 96, 96)
    assert table.operator(other).latency_ms == pytest.approx(true_ms(other), rel=0.1)


def test_another_input_size_is_scaled(table) -> None:
    larger = convolution("conv1", 24, 48, 96)
    assert table.operator(larger).latency_ms == pytest.approx(true_ms(larger), rel=0.15)


def test_an_operator_that_is_fused_costs_nothing() -> None:
    clamp = convolution("conv0", 32, 3, 64, kind="clamp", macs=0, weight_bytes=0)
    programs = [measured(shapes) for shapes in KNOWN[:2]]
    fused = [
        one._replace(operators=(*one.operators, TimedOperator(clamp, 0.0))) for one in programs
    ]
    assert CostTable(tuple(fused), "measured", X86).operator(clamp).latency_ms == 0


def test_an_unknown_kind_is_named_and_widens_the_interval(table) -> None:
    softmax = convolution("head", 8, 16, 16, kind="softmax", macs=0, weight_bytes=0)
    plain, cost = table.program(KNOWN[1]), table.program([*KNOWN[1], softmax])
    assert cost.unknown == ("softmax",)
    assert cost.latency_ms > plain.latency_ms
    assert cost.interval[1] - plain.interval[1] > cost.latency_ms - plain.latency_ms
    assert table.operator(softmax).interval[0] == 0


def test_the_interval_is_as_wide_as_the_errors_of_programs_left_out(table) -> None:
    noisy = [measured(shapes, 1 + 0.2 * (-1) ** i) for i, shapes in enumerate(KNOWN)]
    wide = replace(table, programs=tuple(noisy))
    assert wide.program_error > 2 * table.program_error
    low, high = wide.program(KNOWN[1]).interval
    value = wide.program(KNOWN[1]).latency_ms
    assert math.log(high / value) == pytest.approx(wide.program_error)
    assert low * high == pytest.approx(value**2)


def test_one_program_shows_nothing_about_others(table) -> None:
    one = replace(table, programs=table.programs[:1])
    low, high = one.program(KNOWN[0]).interval
    assert high / low == pytest.approx(4)
    with pytest.raises(ValueError, match="program"):
        replace(table, programs=())


def test_rates_are_found_again() -> None:
    shapes = [shape for known in KNOWN for shape in known]
    rates = fitted_rates([TimedOperator(shape, true_ms(shape)) for shape in shapes], X86)
    found = [1e6 * rate for rate in rates]
    assert found == pytest.approx([FIXED_NS, NS_OF_MAC, NS_OF_BYTE], rel=1e-6)


def test_rates_are_never_negative() -> None:
    shapes = [convolution("a", size, 16, 16) for size in (8, 16, 32)]
    falling = [TimedOperator(shape, 1 / shape.macs) for shape in shapes]
    assert min(fitted_rates(falling, X86)) >= 0
