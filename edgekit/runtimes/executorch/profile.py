"""Assigns a profile's events to the layers of the recipe's model, without torch.

The runtime reports the program's instruction of each event. A kernel's instruction is one operator,
a delegate's is a graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from edgekit.program import Call, Program
from edgekit.runner.client import ProfileRow
from edgekit.runtimes.base import Located
from edgekit.runtimes.xnnpack.events import TABLE, aligned


def locate(program: Program, rows: Sequence[ProfileRow]) -> list[Located]:
    """The operator and the layer of every row of a profile, in their order."""
    calls = {call.instruction: call for call in program.calls}
    located: list[Located] = []
    for instruction, events in groupby(rows, lambda row: row.instruction):
        call = calls.get(instruction)
        located += _locate(program, call, [row.name for row in events])
    return located


def _locate(program: Program, call: Call | None, names: list[str]) -> Iterator[Located]:
    operators = program.operators_of(call) if call else []
    if call and not call.delegated:
        (kernel,) = operators
        yield from (Located(kernel.kind.name, kernel.layer, 0) for _ in names)
        return
    for name, (layer, index) in zip(names, aligned(operators, names), strict=True):
        yield Located(name.replace(TABLE, "Table Lookup"), layer, index)
