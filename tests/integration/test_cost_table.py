"""A table of costs for real programs: pruned ones that are not in it."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import pytest
import torch
from conftest import DIGITS
from runtime_contract import lowered

from edgekit.compress.pruning.channel_groups import find_groups, without_channels
from edgekit.cost.shapes import OperatorShape, OperatorTimes, TimedOperator
from edgekit.cost.table import ChannelSteps, CostTable, channel_steps, stepped_macs
from edgekit.program import Artifact
from edgekit.runtimes.base import FloatModel
from edgekit.runtimes.registry import RUNTIMES
from edgekit.target import load_target

pytestmark = pytest.mark.runtime

KNOWN = ([1.0] * 9, [0.5] * 9, [0.25] * 9)
HELD_OUT = (
    [1.0, 0.25, 0.5, 1.0, 0.5, 0.25, 0.5, 1.0, 0.25],
    [0.5, 1.0, 1.0, 0.5, 0.25, 1.0, 0.25, 0.5, 0.5],
)
BOUND = 0.05


def programs() -> list[Artifact]:
    """ResNet-20 with these shares of the channels of each group."""
    sys.path.append(str(Path(DIGITS).parents[1] / "resnet_cifar"))
    from resnet import ResNet

    runtime = RUNTIMES["executorch"].create()
    torch.manual_seed(0)
    model, example = ResNet(20).eval(), (torch.randn(1, 3, 32, 32),)
    groups, _ = find_groups(model, example)
    found = []
    for shares in (*KNOWN, *HELD_OUT):
        removed = {
            group.layer: list(range(int(group.count * share), group.count))
            for group, share in zip(groups, shares, strict=True)
            if share < 1
        }
        pruned = without_channels(model, example, removed) if removed else model
        found.append(lowered(runtime, FloatModel(pruned, example, [example], [example])))
    return found


def times_of(artifacts: list[Artifact], steps: ChannelSteps) -> list[OperatorTimes]:
    """What a machine would take that computes channels in steps and favours some layers.

    Its times are invented: scripts/bench/cost_table.py has those of real ones.
    """
    runtime = RUNTIMES["executorch"].create()
    times = []
    for artifact in artifacts:
        operators = tuple(
            TimedOperator(shape, invented_ms(shape, steps))
            for shape in runtime.operator_shapes(artifact)
        )
        rest_ms = 0.0005 * len(operators)
        times.append(OperatorTimes(operators, rest_ms))
    return times


def invented_ms(shape: OperatorShape, steps: ChannelSteps) -> float:
    favour = 1 + zlib.crc32(str(shape.layer).encode()) % 20 / 100
    return 0.002 + favour * (stepped_macs(shape, steps) / 2e7 + shape.byte_count / 1e7)


def test_programs_that_are_not_in_the_table() -> None:
    steps = channel_steps(load_target("rpi5"))
    times = times_of(programs(), steps)
    table = CostTable(tuple(times[: len(KNOWN)]), "measured", steps)
    for held_out in times[len(KNOWN) :]:
        cost = table.program([operator.shape for operator in held_out.operators])
        assert cost.unknown == ()
        assert cost.latency_ms == pytest.approx(held_out.total_ms, rel=BOUND)
