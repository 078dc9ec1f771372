"""How much work a search may do, counted and never timed: equal inputs give equal bytes.

The unit is one value rounded once. An inference of the simulation rounds ``values_of`` them, and
takes as long for each, whatever the model: some five nanoseconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from edgekit.compress.quantization.simulate import Simulation
from edgekit.values import Effort

# What plain int8 takes: observing each input costs as many inferences, lowering each point as much
# as rounding so many values.
OBSERVING, LOWERING = 4, 60_000_000
# Passes over the inputs, as inferences of each: ranges are seen, a layer is corrected.
WATCHING, CORRECTING = 2, 6
# Of what plain int8 takes, all searches together; each has its share of that.
TIMES_PLAIN: dict[Effort, float] = {"quick": 1.0, "normal": 3.0, "thorough": 12.0}
REPAIRING, BUYING, BLAMING = 0.5, 0.3, 0.2
LEAST_INPUTS = 4

Item = TypeVar("Item")


@dataclass
class Allowance:
    """What is left of the work that a search may do."""

    left: float

    def take(self, work: float) -> bool:
        """Whether so much is left; then it is taken."""
        if work > self.left:
            return False
        self.left -= work
        return True

    def some(self, data: Sequence[Item], runs: int, values: int) -> list[Item]:
        """As many of the inputs, evenly spread, as ``runs`` over them may have, but a few."""
        most = int(self.left / max(1, runs * values))
        count = min(len(data), max(LEAST_INPUTS, most))
        return [data[int(index * len(data) / count)] for index in range(count)]


def values_of(simulation: Simulation) -> int:
    """Values that an inference rounds."""
    return sum(math.prod(_shape(simulation, name)) for name in simulation.points)


def work_of_plain(simulation: Simulation, inputs: int) -> float:
    """To observe so many inputs and to lower the model."""
    points = len(simulation.points)
    return float(OBSERVING * inputs * values_of(simulation) + LOWERING * points)


def work_of_all(points: int, fitted: int, judged: int) -> int:
    """What all searches would do without a limit, in inferences: nine tries of repairs, each layer
    and each block kept float, each part of each layer rounded alone.
    """
    repairing = 6 * (WATCHING * fitted + judged) + 3 * (CORRECTING * fitted + judged)
    return repairing + 2 * points * (fitted + judged) + points * judged


def _shape(simulation: Simulation, name: str) -> list[int]:
    value = simulation.node(name).all_input_nodes[0].meta.get("val")
    return list(getattr(value, "shape", [0]))
