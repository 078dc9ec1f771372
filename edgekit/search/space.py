"""The choices of a search under budgets, and their costs: the input of the solver. Pure data.

Widths of channel groups and dropped blocks are chosen together, for one input size. A cost is a sum
over operators. The cost of one operator depends on the widths of at most two groups, those of its
inputs and its outputs, and is nothing in a dropped block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from numpy.typing import NDArray

# Costs of an operator for each combination of its groups' options: one axis for each group.
Costs = NDArray[np.float64]


@dataclass(frozen=True)
class Widths:
    """The widths that a group of channels may have, and what each loses."""

    group: str
    widths: tuple[int, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Block:
    """A block that may be dropped, and what that loses."""

    name: str
    loss: float


@dataclass(frozen=True)
class Part:
    """The costs of one operator by resource. ``groups``: none, one or two different ones."""

    groups: tuple[str, ...]
    block: str | None
    costs: Mapping[str, Costs]


@dataclass(frozen=True)
class Space:
    """``constants``: of each resource, what no choice changes. ``loss``: what every choice loses
    (that of the input size).
    """

    groups: tuple[Widths, ...]
    blocks: tuple[Block, ...]
    parts: tuple[Part, ...]
    constants: Mapping[str, float] = field(default_factory=dict)
    loss: float = 0.0

    @property
    def resources(self) -> tuple[str, ...]:
        names = dict.fromkeys(self.constants)
        for part in self.parts:
            names |= dict.fromkeys(part.costs)
        return tuple(names)

    def cost(self, resource: str, choice: Choice) -> float:
        """The cost of a choice, in the resource's unit."""
        total = self.constants.get(resource, 0.0)
        for part in self.parts:
            if resource in part.costs and part.block not in choice.dropped:
                place = tuple(choice.index(self, group) for group in part.groups)
                total += float(part.costs[resource][place])
        return total

    def value(self, name: str, choice: Choice) -> float:
        """The loss of a choice, or its cost."""
        return self.loss_of(choice) if name == LOSS else self.cost(name, choice)

    def loss_of(self, choice: Choice) -> float:
        widths = sum(group.losses[choice.index(self, group.group)] for group in self.groups)
        blocks = sum(block.loss for block in self.blocks if block.name in choice.dropped)
        return self.loss + widths + blocks

    def has(self, choice: Choice) -> bool:
        """Whether a choice of another space is one of this one."""
        names = {block.name for block in self.blocks}
        return choice.dropped <= names and all(
            choice.widths[group.group] in group.widths for group in self.groups
        )

    @property
    def whole(self) -> Choice:
        """The choice that removes nothing."""
        return Choice({one.group: max(one.widths) for one in self.groups}, frozenset())


LOSS = "loss"


@dataclass(frozen=True)
class Bound:
    """A sum of resources, each times a factor, must not exceed ``limit``. ``LOSS`` is one too."""

    terms: Mapping[str, float]
    limit: float

    def holds(self, space: Space, choice: Choice) -> bool:
        total = sum(factor * space.value(name, choice) for name, factor in self.terms.items())
        return total <= self.limit * (1 + 1e-9) + 1e-9


def at_most(**limits: float) -> tuple[Bound, ...]:
    """A bound for each resource."""
    return tuple(Bound({name: 1.0}, limit) for name, limit in limits.items())


@dataclass(frozen=True)
class Choice:
    """The width of each group, and the blocks that are dropped."""

    widths: Mapping[str, int]
    dropped: frozenset[str]

    def index(self, space: Space, group: str) -> int:
        options = next(one for one in space.groups if one.group == group)
        return options.widths.index(self.widths[group])


def combinations(space: Space, part: Part) -> list[tuple[int, ...]]:
    """The places in ``part.costs``: an option of each of its groups."""
    sizes = {one.group: len(one.widths) for one in space.groups}
    return list(product(*(range(sizes[group]) for group in part.groups)))
