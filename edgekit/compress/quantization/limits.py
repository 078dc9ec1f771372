"""Quantization steps within the limits of a runtime's integer kernels.

A kernel converts its operands' steps to its result's by a ratio of the scales, and accepts ratios
within limits only. Beyond them the program fails to load, or computes something else. A ratio is
too high if one step of the operands exceeds the result's whole range, and too low if it vanishes
in it. The step that is too narrow is widened, no further than needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch.fx import Node

from edgekit.compress.graph import operator_name
from edgekit.compress.quantization.simulate import Point, Simulation

# Fused into a kernel: the result's steps are those after this operator.
FUSED = {"relu", "relu6", "hardtanh", "clamp"}
# Each pass propagates the previous pass's changes by one operator.
PASSES = 64
# Keeps ratios inside the limits after rounding to float32.
MARGIN = 1e-3


@dataclass(frozen=True)
class Range:
    """Ratios that a kernel accepts: low <= ratio < high."""

    low: float
    high: float


@dataclass(frozen=True)
class StepLimits:
    """Limits by operator name (``graph.operator_name``).

    ``products``: of the product of all operands' scales to the result's scale. ``each``: of every
    operand's scale to the result's.
    """

    products: Mapping[str, Range]
    each: Mapping[str, Range]


def keep_within(simulation: Simulation, limits: StepLimits) -> frozenset[str]:
    """Widen steps in place until every kernel accepts them; return the changed points."""
    changed: set[str] = set()
    kernels = list(_kernels(simulation))
    for _ in range(PASSES):
        widened = {
            name
            for node, operands, result in kernels
            for ratio in _ratios(node, operands, limits)
            for name in _widened(simulation, ratio, result)
        }
        if not widened:
            break
        changed |= widened
    return frozenset(changed)


def _kernels(simulation: Simulation) -> Iterator[tuple[Node, list[Point], Point]]:
    """Operators that integer kernels compute: all operands and the result are rounded."""
    for node in simulation.graph.graph.nodes:
        operands = [simulation.points.get(value.name) for value in _operands(node)]
        result = _result(simulation, node)
        if operands and result is not None and None not in operands:
            yield node, [point for point in operands if point is not None], result


def _operands(node: Node) -> list[Node]:
    """All operands but the bias, which has no steps of its own."""
    return [value for value in node.args[:2] if isinstance(value, Node)]


def _result(simulation: Simulation, node: Node) -> Point | None:
    while node.op == "call_function" and len(node.users) == 1:
        (user,) = node.users
        if user.name in simulation.points:
            return simulation.points[user.name]
        if operator_name(user) not in FUSED:
            break
        node = user
    return None


Ratio = tuple[list[Point], Range]


def _ratios(node: Node, operands: list[Point], limits: StepLimits) -> Iterator[Ratio]:
    name = operator_name(node)
    if name in limits.products:
        yield operands, limits.products[name]
    if name in limits.each:
        for operand in operands:
            yield [operand], limits.each[name]


def _widened(simulation: Simulation, ratio: Ratio, result: Point) -> Iterator[str]:
    operands, limit = ratio
    steps = [simulation.roundings[point.name].steps for point in (*operands, result)]
    if any(one is None for one in steps):
        return
    scales = [one.scale.double() for one in steps if one is not None]
    product = torch.stack([torch.ones(()).double()])
    for scale in scales[:-1]:
        product = product * scale
    ratios = product / scales[-1]
    over, under = float(ratios.max()) / limit.high, limit.low / ratios
    if over >= 1:
        yield from _widen(simulation, result, torch.tensor(over * (1 + MARGIN)))
    if float(under.max()) > 1:
        # the weights of a convolution, channel by channel; otherwise the last operand
        factor = under.clamp(min=1) * torch.where(under > 1, 1 + MARGIN, 1.0)
        yield from _widen(simulation, operands[-1], factor)


def _widen(simulation: Simulation, point: Point, factor: torch.Tensor) -> Iterator[str]:
    steps = simulation.roundings[point.name].steps
    assert steps is not None
    factor = factor if steps.axis is not None and factor.numel() > 1 else factor.max()
    scale = (steps.scale.double() * factor).float().reshape(steps.scale.shape)
    simulation.set_steps(point.group, replace(steps, scale=scale))
    yield from (shared.name for shared in simulation.groups[point.group])
