"""What a program executes, operator by operator: the input of costs by operator. Pure functions.

In terms that all runtimes share. Nothing here was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edgekit.frozen import Frozen

Dims = tuple[int, ...]

CONVOLUTION, DEPTHWISE, LINEAR, MATMUL = "convolution", "depthwise", "linear", "matmul"


class OperatorShape(Frozen):
    """One operator of a program.

    ``kind``: convolution (also grouped), depthwise, linear, matmul, add, max_pool, ...; outside
    delegates, the kernel's own name. ``precision``: fp32, fp16, int8, dynamic_int8 (integer
    weights, activations rounded as they come), dynamic_int4, or another type's name.
    ``inputs``, ``outputs``: shapes of activations as the runtime stores them; convolutions in
    delegates have (batch, height, width, channels). ``weight_bytes``: constants as stored.
    ``activation_bytes``: all inputs and outputs, once each. ``macs``: multiply-accumulates.
    ``layer``: the module's name in the recipe's model; '' the model itself, None unknown.
    ``instruction``, ``index``: the place of the operator, see Program.calls.
    """

    kind: str
    precision: str
    inputs: tuple[Dims, ...]
    outputs: tuple[Dims, ...]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    groups: int = 1
    weight_bytes: int = 0
    activation_bytes: int = 0
    macs: int = 0
    delegated: bool
    layer: str | None
    instruction: int
    index: int

    @property
    def place(self) -> tuple[int, int]:
        return self.instruction, self.index

    @property
    def byte_count(self) -> int:
        """The bytes that the operator reads and writes, if each is touched once."""
        return self.weight_bytes + self.activation_bytes


class TimedOperator(NamedTuple):
    """``latency_ms``: 0 if the runtime fused the operator into another."""

    shape: OperatorShape
    latency_ms: float


class OperatorTimes(NamedTuple):
    """``operators``: in order of execution. ``rest_ms``: what belongs to none of them: operators
    that the runtime inserted, and all between operators.
    """

    operators: tuple[TimedOperator, ...]
    rest_ms: float

    @property
    def total_ms(self) -> float:
        return self.rest_ms + sum(operator.latency_ms for operator in self.operators)


def times_by_operator(
    shapes: Sequence[OperatorShape],
    rows: Sequence[tuple[tuple[int, int] | None, float]],
    total_ms: float,
) -> OperatorTimes:
    """The time of each operator, from the rows of a profile.

    ``rows``: the place of each row's operator (None: of no known operator) and its milliseconds.
    ``total_ms``: of the whole inference.

    >>> times_by_operator([], [(None, 2.0)], 3.0)
    OperatorTimes(operators=(), rest_ms=3.0)
    """
    times = dict.fromkeys((shape.place for shape in shapes), 0.0)
    for place, latency_ms in rows:
        if place in times:
            times[place] += latency_ms
    operators = tuple(TimedOperator(shape, times[shape.place]) for shape in shapes)
    return OperatorTimes(operators, total_ms - sum(times.values()))
