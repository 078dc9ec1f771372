"""Operators for which no published latency shows how well a prediction holds. Pure functions."""

from __future__ import annotations

import re

from edgekit.cost.latency import Factors
from edgekit.program import Program

# The operators of the convolutional networks with a published latency on a Raspberry Pi. Runtimes'
# names, in lower case without separators, contain or start with these.
CONTAINED = ("conv", "pool")
STARTS = (
    "fullyconnected", "linear", "clamp", "relu", "hardswish", "sigmoid", "add", "mul", "mean",
    "concat", "reshape", "transpose", "copy", "cast", "pad", "constantpad", "quantize",
    "dequantize",
)  # fmt: skip
CONVOLUTION = "conv"
# How much further the interval reaches, down and up. A judgement, not a measurement.
WIDER = Factors(0.7, 1.6)


def unproven_operators(program: Program) -> list[str]:
    """The names of kinds that no published latency covers; empty for a convolutional network.

    Kernels outside all delegates count: no published program has any.
    """
    found: dict[str, None] = {}
    for call in program.calls:
        for operator in program.operators_of(call):
            name = operator.kind.name
            published = program.is_housekeeping(name) or (call.delegated and _is_published(name))
            if not published:
                found[name] = None
    if not found and not any(CONVOLUTION in _plain(kind.name) for kind in program.kinds):
        return ["models without convolutions"]
    return list(found)


def widened(factors: Factors, unproven: list[str]) -> Factors:
    if not unproven:
        return factors
    return Factors(factors.low * WIDER.low, factors.high * WIDER.high)


def _is_published(name: str) -> bool:
    plain = _plain(name)
    return plain.startswith(STARTS) or any(part in plain for part in CONTAINED)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("convert", "cast"))
