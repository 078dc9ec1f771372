"""Limits of a search's work: counted, not timed, so that equal inputs give equal bytes.

The unit is one value rounded once. An inference of the simulation rounds ``values_of`` values. Each
takes about five nanoseconds for any model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from edgekit.compress.quantization.simulate import Simulation
from edgekit.values import Effort

# The work of plain int8: observing one input costs so many inferences; lowering one point costs as
# much as rounding so many values.
OBSERVING, LOWERING = 4, 60_000_000
# Inferences of each input to observe ranges, and to correct layers.
WATCHING, CORRECTING = 2, 6
# The work of all searches together as a multiple of plain int8's; and the share of each search.
TIMES_PLAIN: dict[Effort, float] = {"quick": 1.0, "normal": 3.0, "thorough": 12.0}
REPAIRING, BUYING, BLAMING = 0.5, 0.3, 0.2
LEAST_INPUTS = 4


class BuildLimit(NamedTuple):
    """The repairs that are built where nothing in torch simulates the artifact. ``most``: artifacts
    in all. ``in_vain``: artifacts in a row without gain, after which the search ends.
    """

    most: int
    in_vain: int


BUILDS: dict[Effort, BuildLimit] = {
    "quick": BuildLimit(0, 0),
    "normal": BuildLimit(4, 2),
    "thorough": BuildLimit(4, 4),
}

Item = TypeVar("Item")


@dataclass
class Allowance:
    """The remaining work of a search."""

    remaining: float

    def spend(self, work: float) -> bool:
        """Subtract ``work`` and return True if so much is left; else return False."""
        if work > self.remaining:
            return False
        self.remaining -= work
        return True

    def affordable(self, data: Sequence[Item], runs: int, values: int) -> list[Item]:
        """As many evenly spread items as the work left allows for ``runs`` over them, and at least
        LEAST_INPUTS.
        """
        most = int(self.remaining / max(1, runs * values))
        count = min(len(data), max(LEAST_INPUTS, most))
        return [data[int(index * len(data) / count)] for index in range(count)]


def values_of(simulation: Simulation) -> int:
    """The number of values that one inference rounds."""
    return sum(math.prod(_shape(simulation, name)) for name in simulation.points)


def work_of_plain(simulation: Simulation, inputs: int) -> float:
    """The work of plain int8: to observe so many inputs and to lower the model."""
    points = len(simulation.points)
    return float(OBSERVING * inputs * values_of(simulation) + LOWERING * points)


def work_of_all(points: int, fitted: int, judged: int) -> int:
    """The inferences of all searches without a limit: nine trials of repairs, each layer and block
    float once, each part of each layer rounded alone.
    """
    repairing = 6 * (WATCHING * fitted + judged) + 3 * (CORRECTING * fitted + judged)
    return repairing + 2 * points * (fitted + judged) + points * judged


def _shape(simulation: Simulation, name: str) -> list[int]:
    value = simulation.node(name).all_input_nodes[0].meta.get("val")
    return list(getattr(value, "shape", [0]))
