"""The latency of programs that were never lowered, from the operators of a few that were.

An inference is the sum of its operators and of what the runtime does between them. An operator's
latency is a proxy times a ratio. The proxy is a fixed time, multiply-accumulates and bytes, each at
a rate that is fitted to the known operators of its kind. The ratio, of the known latency to the
proxy, comes from known operators: interpolated between those of the same layer at other widths or
sizes, if there are any, else the mean of the nearest ones of the same kind. Pure functions.

What operators share is not in it: whether the caches hold an operator's weights until the next
inference depends on the whole program.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import prod
from typing import NamedTuple

import numpy as np

from edgekit.cost.shapes import (
    CONVOLUTION,
    DEPTHWISE,
    LINEAR,
    MATMUL,
    OperatorShape,
    OperatorTimes,
    TimedOperator,
)
from edgekit.documents.latency import CostSource
from edgekit.target import Target


class ChannelSteps(NamedTuple):
    """Output channels that kernels compute at once: with steps of 16, 8 take as long as 16.

    ``half``: in half precision, depthwise convolutions included. Cores without half precision
    compute in float32 instead.
    """

    floating: int
    integer: int
    depthwise: int
    half: int = 16


# Of XNNPACK's kernels: docs/benchmarks.md, "Costs from a table".
X86 = ChannelSteps(16, 16, 16)
ARM = ChannelSteps(8, 8, 8, 8)
ARM_DOT_PRODUCTS = ChannelSteps(8, 16, 8)
DOT_PRODUCTS = "asimddp"
STEPPED = (CONVOLUTION, DEPTHWISE, LINEAR, MATMUL)
NEIGHBORS = 4
NEAR = 0.01  # closer ones have no more weight
# A rate is fitted to at least so many operators.
LEAST_FITTED = 6
# An interval holds 90 %: quantiles of Student's t, by degrees of freedom.
LEVEL = 0.9
T_90 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812)
T_MANY = 1.7
# Assumed, with a single program: nothing shows how well it predicts others.
ONE_PROGRAM_ERROR = math.log(2)
# Assumed, for operators of kinds that the table does not know: up to so many times their estimate.
UNKNOWN_FACTOR = 3.0


class Cost(NamedTuple):
    """``interval``: holds 90 %. ``unknown``: kinds of operators that the table does not know."""

    latency_ms: float
    interval: tuple[float, float]
    source: CostSource
    unknown: tuple[str, ...] = ()


class Rates(NamedTuple):
    """Milliseconds: fixed, for each multiply-accumulate, and for each byte."""

    fixed: float
    mac: float
    byte: float

    def latency_ms(self, shape: OperatorShape, steps: ChannelSteps) -> float:
        macs = stepped_macs(shape, steps)
        return self.fixed + self.mac * macs + self.byte * shape.byte_count


@dataclass(frozen=True)
class CostTable:
    """``programs``: what is known, from one source. ``steps``: of the processor's kernels."""

    programs: tuple[OperatorTimes, ...]
    source: CostSource
    steps: ChannelSteps

    def __post_init__(self) -> None:
        if not self.programs:
            raise ValueError("a table of costs needs at least one program")

    def program(self, shapes: Sequence[OperatorShape]) -> Cost:
        """The latency of an inference that executes these operators.

        The interval comes from predicting each program of the table by the others.
        """
        value, unknown_ms, unknown = self._sum(shapes)
        spread = math.exp(self.program_error)
        high = (value - unknown_ms) * spread + unknown_ms * UNKNOWN_FACTOR
        return Cost(value, ((value - unknown_ms) / spread, high), self.source, unknown)

    def operator(self, shape: OperatorShape) -> Cost:
        """The latency of one operator. 0 if the runtime fuses such operators into others."""
        value = self._estimate.latency_ms(shape)
        if not self._estimate.knows(shape):
            interval = (0.0, value * UNKNOWN_FACTOR)
            return Cost(value, interval, self.source, (shape.kind,))
        spread = math.exp(self._operator_error(shape))
        return Cost(value, (value / spread, value * spread), self.source)

    @cached_property
    def program_error(self) -> float:
        """Of the logarithm of a program's latency: half of the interval's length."""
        if len(self.programs) < 2:
            return ONE_PROGRAM_ERROR
        errors = []
        for program, others in self._left_out:
            shapes = [operator.shape for operator in program.operators]
            errors.append(math.log(others._sum(shapes)[0] / program.total_ms))
        count = len(errors)
        quantile = T_90[count - 1] if count <= len(T_90) else T_MANY
        # the prediction of one more program; its error is taken as one about 0
        return quantile * math.sqrt(sum(e * e for e in errors) / count * (1 + 1 / count))

    @cached_property
    def _left_out(self) -> list[tuple[OperatorTimes, CostTable]]:
        return [
            (program, replace(self, programs=self.programs[:place] + self.programs[place + 1 :]))
            for place, program in enumerate(self.programs)
        ]

    def _sum(self, shapes: Sequence[OperatorShape]) -> tuple[float, float, tuple[str, ...]]:
        """The whole in ms, the part of unknown operators in it, and their kinds."""
        times = [self._estimate.latency_ms(shape) for shape in shapes]
        unknown = [not self._estimate.knows(shape) for shape in shapes]
        names = {
            shape.kind: None
            for shape, is_unknown in zip(shapes, unknown, strict=True)
            if is_unknown
        }
        unknown_ms = sum(ms for ms, is_unknown in zip(times, unknown, strict=True) if is_unknown)
        rest_ms = self._rest_of_operator_ms * len(shapes)
        return sum(times) + rest_ms, unknown_ms, tuple(names)

    @cached_property
    def _rest_of_operator_ms(self) -> float:
        count = sum(len(program.operators) for program in self.programs)
        return max(sum(program.rest_ms for program in self.programs), 0.0) / max(count, 1)

    @cached_property
    def _estimate(self) -> Estimate:
        known = [one for program in self.programs for one in program.operators]
        return Estimate(known, self.steps)

    def _operator_error(self, shape: OperatorShape) -> float:
        errors = self._operator_errors.get(kind_of(shape)) or [
            error for some in self._operator_errors.values() for error in some
        ]
        if not errors:
            return ONE_PROGRAM_ERROR
        return float(np.quantile(errors, LEVEL, method="higher"))

    @cached_property
    def _operator_errors(self) -> dict[Kind, list[float]]:
        """Absolute errors of the logarithm, of operators whose program was left out."""
        errors: dict[Kind, list[float]] = {}
        for program, others in self._left_out if len(self.programs) > 1 else ():
            for shape, latency_ms in program.operators:
                found = others._estimate.latency_ms(shape)
                if found > 0 and latency_ms > 0:
                    error = abs(math.log(found / latency_ms))
                    errors.setdefault(kind_of(shape), []).append(error)
        return errors


def channel_steps(target: Target) -> ChannelSteps:
    if target.architecture == "x86_64":
        return X86
    return ARM_DOT_PRODUCTS if DOT_PRODUCTS in target.features else ARM


Kind = tuple[str, str]


def kind_of(shape: OperatorShape) -> Kind:
    return shape.kind, shape.precision


def stepped_macs(shape: OperatorShape, steps: ChannelSteps) -> float:
    """Multiply-accumulates with output channels in the steps that kernels compute them in."""
    if shape.kind not in STEPPED or not shape.outputs or not shape.outputs[0]:
        return shape.macs
    channels = shape.outputs[0][-1] / (1 if shape.kind == DEPTHWISE else shape.groups)
    if not channels:
        return shape.macs
    step = _step(shape, steps)
    return shape.macs * step * math.ceil(channels / step) / channels


def _step(shape: OperatorShape, steps: ChannelSteps) -> int:
    if shape.precision == "fp16":
        return steps.half
    if shape.kind == DEPTHWISE:
        return steps.depthwise
    return steps.integer if "int" in shape.precision else steps.floating


class Estimate:
    """Latencies of operators from known ones."""

    def __init__(self, known: Sequence[TimedOperator], steps: ChannelSteps) -> None:
        self._steps = steps
        self._by_kind = _grouped(known, lambda shape: kind_of(shape))
        self._by_layer = _grouped(known, lambda shape: (*_form(shape), shape.layer))
        self._by_form = _grouped(known, _form)
        self._all = list(known)
        self._rates: dict[object, Rates] = {}

    def knows(self, shape: OperatorShape) -> bool:
        return kind_of(shape) in self._by_kind

    def latency_ms(self, shape: OperatorShape) -> float:
        proxy = partial(self._rates_of(shape).latency_ms, steps=self._steps)
        same_layer = self._by_layer.get((*_form(shape), shape.layer), [])
        if same_layer and shape.layer is not None:
            points = [(proxy(one.shape), one.latency_ms) for one in same_layer]
            return _interpolated(points, proxy(shape))
        known = self._by_form.get(_form(shape)) or self._by_kind.get(kind_of(shape), [])
        nearest = sorted(known, key=lambda one: _distance(shape, one.shape))[:NEIGHBORS]
        if not nearest:
            return proxy(shape)
        ratios = [one.latency_ms / proxy(one.shape) for one in nearest]
        weights = [1 / (_distance(shape, one.shape) + NEAR) for one in nearest]
        mean = sum(w * ratio for w, ratio in zip(weights, ratios, strict=True)) / sum(weights)
        return proxy(shape) * mean

    def _rates_of(self, shape: OperatorShape) -> Rates:
        for key, known in (
            (_form(shape), self._by_form.get(_form(shape), [])),
            (kind_of(shape), self._by_kind.get(kind_of(shape), [])),
        ):
            if len(known) >= LEAST_FITTED:
                if key not in self._rates:
                    self._rates[key] = fitted_rates(known, self._steps)
                return self._rates[key]
        if () not in self._rates:
            self._rates[()] = fitted_rates(self._all, self._steps)
        return self._rates[()]


def _interpolated(points: Sequence[tuple[float, float]], at: float) -> float:
    """Linear between the nearest points; beyond the last ones, in proportion.

    >>> _interpolated([(1.0, 1.0), (3.0, 2.0)], 2.0)
    1.5
    >>> _interpolated([(1.0, 1.0), (3.0, 2.0)], 6.0)
    4.0
    """
    values: dict[float, list[float]] = {}
    for place, value in points:
        values.setdefault(place, []).append(value)
    places = sorted(values)
    means = [sum(values[place]) / len(values[place]) for place in places]
    end = 0 if at <= places[0] else -1
    if not places[0] < at < places[-1]:
        return means[end] * at / places[end]
    return float(np.interp(at, places, means))


def _grouped(
    known: Iterable[TimedOperator], key: Callable[[OperatorShape], object]
) -> Mapping[object, list[TimedOperator]]:
    groups: dict[object, list[TimedOperator]] = {}
    for one in known:
        groups.setdefault(key(one.shape), []).append(one)
    return groups


def _form(shape: OperatorShape) -> tuple[object, ...]:
    return (*kind_of(shape), shape.kernel, shape.stride, shape.groups > 1)


def _distance(one: OperatorShape, other: OperatorShape) -> float:
    """In logarithms of channels read and written, of the other dimensions, and of weights."""
    pairs = zip(_features(one), _features(other), strict=True)
    return sum(abs(math.log(a / b)) for a, b in pairs)


def _features(shape: OperatorShape) -> tuple[float, ...]:
    read, written = (dims[0] if dims else () for dims in (shape.inputs, shape.outputs))
    channels = [max(dims[-1], 1) if dims else 1 for dims in (read, written)]
    pixels = max(prod(written[:-1]), 1) if written else 1
    return (*channels, pixels, max(shape.weight_bytes, 1))


def fitted_rates(known: Sequence[TimedOperator], steps: ChannelSteps) -> Rates:
    """The rates >= 0 with the least squares of relative errors. Fused operators do not count."""
    timed = [one for one in known if one.latency_ms > 0]
    if not timed:
        return Rates(1e-6, 0.0, 0.0)
    weights = 1 / np.array([one.latency_ms for one in timed])
    columns = np.array(
        [[1.0, stepped_macs(one.shape, steps), one.shape.byte_count] for one in timed], dtype=float
    )
    scaled = columns * weights[:, None]
    best = _least_squares(scaled)
    return Rates(*best)


def _least_squares(columns: np.ndarray) -> list[float]:
    """x >= 0 with the least ``|columns @ x - 1|``: the best of the solutions on subsets."""
    best, least = [0.0, 0.0, 0.0], math.inf
    for subset in ([0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]):
        some = columns[:, subset]
        norms = np.linalg.norm(some, axis=0)
        if not norms.all():
            continue
        found = np.linalg.lstsq(some / norms, np.ones(len(columns)), rcond=None)[0] / norms
        error = float(((some @ found - 1) ** 2).sum())
        if (found >= 0).all() and error < least:
            least = error
            best = [0.0, 0.0, 0.0]
            for place, value in zip(subset, found, strict=True):
                best[place] = float(value)
    return best
