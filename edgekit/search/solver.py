"""The best choice under limits, exactly, as a mixed-integer linear program (HiGHS, by scipy).

Minimize the sum of losses, or one resource, under limits of all others. Losses are taken to be
additive, as in SPDY (E. Frantar and D. Alistarh, 2022, arXiv:2201.13096); the caller measures what
the solver chose, and corrects.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_matrix

from edgekit.search.space import LOSS, Bound, Choice, Part, Space, combinations

# Work of the solver, not seconds: the same input gives the same answer on any machine.
MOST_NODES = 20_000
GAP = 1e-3  # losses are not known better


def solve(
    space: Space,
    bounds: Sequence[Bound],
    minimize: str = LOSS,
    other_than: Sequence[Choice] = (),
) -> Choice | None:
    """The choice with the least loss, or the least of another resource; None if nothing fits.

    ``other_than``: choices that are excluded.
    """
    program = _Program(space)
    for bound in bounds:
        program.limit(bound)
    for choice in other_than:
        program.exclude(choice)
    return program.solve(minimize)


@dataclass
class _Program:
    """Variables: one binary for each width of a group, one for each block (1: dropped), and a share
    for each combination of an operator that depends on two groups or is in a block.
    """

    space: Space
    column: dict[object, int] = field(default_factory=dict)
    rows: list[tuple[dict[int, float], float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for group in self.space.groups:
            choices = [self._add((group.group, index)) for index in range(len(group.widths))]
            self.rows.append((dict.fromkeys(choices, 1.0), 1.0, 1.0))
        for block in self.space.blocks:
            self._add(block.name)
        self.binaries = len(self.column)
        for number, part in enumerate(self.space.parts):
            if len(part.groups) > 1 or part.block is not None:
                self._couple(number, part)

    def _add(self, key: object) -> int:
        return self.column.setdefault(key, len(self.column))

    def _couple(self, number: int, part: Part) -> None:
        """The shares of a part add up to 1, or to 0 in a dropped block; those with one option of a
        group to no more than that option.
        """
        places = combinations(self.space, part)
        columns = {place: self._add((number, place)) for place in places}
        all_of_it = dict.fromkeys(columns.values(), 1.0)
        if part.block is not None:
            all_of_it[self.column[part.block]] = 1.0
        self.rows.append((all_of_it, 1.0, 1.0))
        for axis, group in enumerate(part.groups):
            for index in sorted({place[axis] for place in places}):
                row = {columns[place]: 1.0 for place in places if place[axis] == index}
                row[self.column[group, index]] = -1.0
                self.rows.append((row, -np.inf, 0.0))

    def _terms(self, resource: str) -> tuple[dict[int, float], float]:
        """Coefficients and constant of a resource, or of the loss."""
        if resource == LOSS:
            return self._losses(), self.space.loss
        terms: dict[int, float] = {}
        constant = self.space.constants.get(resource, 0.0)
        for number, part in enumerate(self.space.parts):
            if resource not in part.costs:
                continue
            for place, column in self._columns(number, part):
                cost = float(part.costs[resource][place])
                if column is None:
                    constant += cost
                else:
                    terms[column] = terms.get(column, 0.0) + cost
        return terms, constant

    def _columns(self, number: int, part: Part) -> Iterator[tuple[tuple[int, ...], int | None]]:
        for place in combinations(self.space, part):
            if (number, place) in self.column:
                yield place, self.column[number, place]
            else:
                yield place, self.column[part.groups[0], place[0]] if part.groups else None

    def _losses(self) -> dict[int, float]:
        terms = {
            self.column[group.group, index]: loss
            for group in self.space.groups
            for index, loss in enumerate(group.losses)
        }
        return terms | {self.column[block.name]: block.loss for block in self.space.blocks}

    def limit(self, bound: Bound) -> None:
        row: dict[int, float] = {}
        limit = bound.limit
        for resource, factor in bound.terms.items():
            terms, constant = self._terms(resource)
            limit -= factor * constant
            for column, value in terms.items():
                row[column] = row.get(column, 0.0) + factor * value
        self.rows.append((row, -np.inf, limit))

    def exclude(self, choice: Choice) -> None:
        chosen = {
            self.column[group.group, choice.index(self.space, group.group)]: 1.0
            for group in self.space.groups
        }
        blocks = {
            self.column[block.name]: 1.0 if block.name in choice.dropped else -1.0
            for block in self.space.blocks
        }
        most = len(chosen) + len(choice.dropped) - 1.0
        self.rows.append((chosen | blocks, -np.inf, most))

    def solve(self, minimize: str) -> Choice | None:
        cost: NDArray[np.float64] = np.zeros(len(self.column))
        for column, value in self._terms(minimize)[0].items():
            cost[column] = value
        integrality = np.zeros(len(self.column))
        integrality[: self.binaries] = 1
        with _silent_stdout():
            result = milp(
                cost,
                integrality=integrality,
                bounds=Bounds(0, 1),
                constraints=self._constraints(),
                options={"node_limit": MOST_NODES, "mip_rel_gap": GAP},
            )
        return self._choice(result.x) if result.x is not None else None

    def _constraints(self) -> LinearConstraint:
        entries = [(row, column, value) for row, (terms, _, _) in enumerate(self.rows)
                   for column, value in terms.items()]  # fmt: skip
        rows, columns, values = zip(*entries, strict=True) if entries else ((), (), ())
        matrix = csr_matrix((values, (rows, columns)), (len(self.rows), len(self.column)))
        lows, highs = [low for _, low, _ in self.rows], [high for _, _, high in self.rows]
        return LinearConstraint(matrix, lows, highs)

    def _choice(self, values: NDArray[np.float64]) -> Choice:
        widths = {}
        for group in self.space.groups:
            places = [self.column[group.group, index] for index in range(len(group.widths))]
            widths[group.group] = group.widths[int(np.argmax(values[places]))]
        dropped = {b.name for b in self.space.blocks if values[self.column[b.name]] > 0.5}
        return Choice(widths, frozenset(dropped))


@contextmanager
def _silent_stdout() -> Iterator[None]:
    """Hide what HiGHS prints from C++, whatever its options: stdout is for results."""
    with Path(os.devnull).open("w") as nothing:
        sys.stdout.flush()
        kept = os.dup(1)
        os.dup2(nothing.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)
