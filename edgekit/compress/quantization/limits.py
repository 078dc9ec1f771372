"""Steps kept inside what a runtime's integer kernels take.

A kernel turns its operands' steps into its result's by one number, a ratio of the scales, and
takes only ratios within limits: beyond them the program fails to load, or computes something
else. A step that is too narrow is widened, no further than needed: a ratio too high means that
one step of the operands is beyond the whole range of the result; one too low, that they are
nothing in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch.fx import Node

from edgekit.compress.graph import operator_name
from edgekit.compress.quantization.simulate import Point, Simulation

# What a kernel computes before it rounds, so that the result's steps stand behind it.
FUSED = {"relu", "relu6", "hardtanh", "clamp"}
# Each pass moves what the one before has changed one operator further.
PASSES = 64
# So that rounding in float32 stays inside.
MARGIN = 1e-3


@dataclass(frozen=True)
class Range:
    """Ratios that a kernel takes: ``low`` and above, below ``high``."""

    low: float
    high: float


@dataclass(frozen=True)
class StepLimits:
    """By operator name, as ``graph.operator_name`` gives it.

    ``products``: the scales of all operands, multiplied, to that of the result. ``each``: the scale
    of every operand to that of the result.
    """

    products: Mapping[str, Range]
    each: Mapping[str, Range]


def keep_within(simulation: Simulation, limits: StepLimits) -> frozenset[str]:
    """Widen steps in place until every kernel takes them; give the points that were changed."""
    changed: set[str] = set()
    kernels = list(_kernels(simulation))
    for _ in range(PASSES):
        now = {
            name
            for node, operands, result in kernels
            for ratio in _ratios(node, operands, limits)
            for name in _widened(simulation, ratio, result)
        }
        if not now:
            break
        changed |= now
    return frozenset(changed)


def _kernels(simulation: Simulation) -> Iterator[tuple[Node, list[Point], Point]]:
    """Operators that round all their operands and their result: these the kernels compute."""
    for node in simulation.graph.graph.nodes:
        operands = [simulation.points.get(value.name) for value in _operands(node)]
        result = _result(simulation, node)
        if operands and result is not None and None not in operands:
            yield node, [point for point in operands if point is not None], result


def _operands(node: Node) -> list[Node]:
    """Without a bias, which is never rounded by steps of its own."""
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
    found = product / scales[-1]
    over, under = float(found.max()) / limit.high, limit.low / found
    if over >= 1:
        yield from _widen(simulation, result, torch.tensor(over * (1 + MARGIN)))
    if float(under.max()) > 1:
        # of a convolution the weights, channel by channel; else the first operand
        factor = under.clamp(min=1) * torch.where(under > 1, 1 + MARGIN, 1.0)
        yield from _widen(simulation, operands[-1], factor)


def _widen(simulation: Simulation, point: Point, factor: torch.Tensor) -> Iterator[str]:
    steps = simulation.roundings[point.name].steps
    assert steps is not None
    factor = factor if steps.axis is not None and factor.numel() > 1 else factor.max()
    scale = (steps.scale.double() * factor).float().reshape(steps.scale.shape)
    simulation.set_steps(point.group, replace(steps, scale=scale))
    yield from (shared.name for shared in simulation.groups[point.group])
