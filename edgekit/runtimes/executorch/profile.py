"""Whose time it was: from a profile's events to the layers of the recipe's model. No torch.

The runtime tells which of the program's instructions an event is of. A kernel's instruction is
one operator. A delegate's is a graph, of which XNNPACK tells the operators that it ran, in
order, by name: what it fused away has no event, what it inserted has one and is no node.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from edgekit.program import Call, Operator, Program
from edgekit.runner.client import ProfileRow
from edgekit.runtimes.base import Located
from edgekit.runtimes.executorch.profile_alignment import candidates

# What XNNPACK calls its operators, by the kind of node; elsewhere the kind's own name.
EVENTS = {
    "ArgMaxPooling2d": ("ArgMax Pooling",),
    "AvgPooling2d": ("Average Pooling", "Pixelwise Average Pooling"),
    "BatchMatrixMultiply": ("Batch Matrix Multiply",),
    "Concatenate2": ("Copy", "Concatenate"),
    "Concatenate3": ("Copy", "Concatenate"),
    "Concatenate4": ("Copy", "Concatenate"),
    "Concatenate5": ("Copy", "Concatenate"),
    "ConstantPad": ("Constant Pad",),
    "Conv2d": ("Convolution", "Fully Connected"),
    "ConvTranspose2d": ("Deconvolution",),
    "Cos": ("Cosine",),
    "DepthwiseConv2d": ("Convolution",),
    "Div": ("Divide",),
    "FullyConnected": ("Fully Connected", "Dynamic Fully Connected"),
    "Gelu": ("GELU", "ApproxGELU"),
    "GlobalAvgPooling2d": ("Mean", "Global Average Pooling"),
    "MaxPooling2d": ("Max Pooling",),
    "ReciprocalSquareRoot": ("Reciprocal Square Root",),
    "Reshape": ("Static Reshape", "Static Expand Dims", "Fuse Dims", "Split Dims", "Copy"),
    "ResizeBilinear2D": ("Resize Bilinear",),
    "Sin": ("Sine",),
    "SquareRoot": ("Square Root",),
}
# One for each value: XNNPACK may make a table of it, which it has no name for.
TABLE = "Invalid Unary Op"
TABULATED = {
    "Abs", "Ceiling", "Clamp", "Cos", "ELU", "Exp", "Floor", "Gelu", "Hardswish", "LeakyReLU",
    "Log", "Negate", "ReciprocalSquareRoot", "Sigmoid", "Sin", "Square", "SquareRoot", "Tanh",
}  # fmt: skip
# Their bounds are an operator of its own, which XNNPACK adds behind them.
BOUNDED = {"Add", "Div", "Multiply", "Subtract"}
# What XNNPACK fuses into its neighbours, or inserts between them, and what else it rarely does.
PASSING = {"Clamp", "ConstantPad", "Convert", "Copy", "Reshape", "Transpose"}
PASSING_EVENTS = {
    "clamp", "constant pad", "convert", "copy", "pack lh", "static reshape", "transpose",
}  # fmt: skip
EXPECTED, BEHIND, USUAL, RARE = 0, 1, 2, 4


class _Item(NamedTuple):
    """What is to be found among the events: an operator, or the bounds behind one."""

    operator: Operator
    events: frozenset[str]
    cost: int
    elide: int


def locate(program: Program, rows: Sequence[ProfileRow]) -> list[Located]:
    """The operator and the layer of every row of a profile, in their order."""
    calls = {call.instruction: call for call in program.calls}
    found: list[Located] = []
    for instruction, events in groupby(rows, lambda row: row.instruction):
        call = calls.get(instruction)
        found += _locate(program, call, [row.name for row in events])
    return found


def _locate(program: Program, call: Call | None, names: list[str]) -> Iterator[Located]:
    operators = program.operators_of(call) if call else []
    if call and not call.delegated:
        (kernel,) = operators
        yield from (Located(kernel.kind.name, kernel.layer) for _ in names)
        return
    for name, layer in zip(names, layers_of_events(operators, names), strict=True):
        yield Located(name.replace(TABLE, "Table Lookup"), layer)


def layers_of_events(operators: Sequence[Operator], names: Sequence[str]) -> list[str | None]:
    """Align a delegate's operators with the names of its events; None where it is not known.

    >>> add = Operator(Kind("Add", False), "block")
    >>> layers_of_events([add], ["Transpose (ND, X32) #1", "Add (ND) #1", "Clamp (NC) #1"])
    [None, 'block', 'block']
    """
    items = [item for operator in operators for item in _items(operator)]
    events = [_event(name) for name in names]

    def match(item: int, event: int) -> int | None:
        return items[item].cost if events[event] in items[item].events else None

    insert = [USUAL if event in PASSING_EVENTS else RARE for event in events]
    layers = []
    for places in candidates([item.elide for item in items], insert, match):
        of = {None if place is None else items[place].operator.layer for place in places}
        layers.append(of.pop() if len(of) == 1 else None)
    return layers


def _items(operator: Operator) -> Iterator[_Item]:
    kind = operator.kind.name
    events = {event.lower() for event in EVENTS.get(kind, (kind,))}
    if kind in TABULATED:
        events.add(TABLE.lower())
    elide = USUAL if kind in PASSING else RARE
    yield _Item(operator, frozenset(events), EXPECTED, elide)
    if kind in BOUNDED:
        yield _Item(operator, frozenset({"clamp"}), BEHIND, 0)


def _event(name: str) -> str:
    """The operator in an event's name: 'convolution' of 'Convolution (NHWC, QC8) IGEMM #1'."""
    return name.partition(" (")[0].partition(" #")[0].lower()
