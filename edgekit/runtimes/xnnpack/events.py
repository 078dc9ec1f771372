"""Assigns the events of a profile to the operators and layers of a program, without torch.

XNNPACK reports the names of the operators that it ran, in order. A fused operator has no event; an
inserted operator has an event but no node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from edgekit.program import Call, Operator, Program
from edgekit.runner.client import ProfileRow
from edgekit.runtimes.base import Located
from edgekit.runtimes.xnnpack.alignment import candidates

# XNNPACK's names for its operators, by the kind of node, if they differ from the kind.
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
# XNNPACK may compute a function of one value by a table, for which it has no name.
TABLE = "Invalid Unary Op"
TABULATED = {
    "Abs", "Ceiling", "Clamp", "Cos", "ELU", "Exp", "Floor", "Gelu", "Hardswish", "LeakyReLU",
    "Log", "Negate", "ReciprocalSquareRoot", "Sigmoid", "Sin", "Square", "SquareRoot", "Tanh",
}  # fmt: skip
# XNNPACK adds the bounds of these as a separate operator.
BOUNDED = {"Add", "Div", "Multiply", "Subtract"}
# Operators that XNNPACK often fuses or inserts; others rarely.
PASSING = {"Clamp", "ConstantPad", "Convert", "Copy", "Reshape", "Transpose"}
PASSING_EVENTS = {
    "clamp", "constant pad", "convert", "copy", "pack lh", "static reshape", "transpose",
}  # fmt: skip
EXPECTED, BEHIND, USUAL, RARE = 0, 1, 2, 4


class _Item(NamedTuple):
    """An item to find among the events: an operator, or the bounds behind one. ``place``: the
    operator's, in its delegate.
    """

    operator: Operator
    place: int
    events: frozenset[str]
    cost: int
    elide: int


def locate(
    program: Program, rows: Sequence[ProfileRow], nodes: Mapping[str, str] | None = None
) -> list[Located]:
    """The operator and the layer of every row of a profile, in their order.

    A kernel's instruction is one operator, a delegate's is a graph. ``nodes``: XNNPACK's nodes by
    the runtime's names of operators, if these differ.
    """
    calls = {call.instruction: call for call in program.calls}
    located: list[Located] = []
    for instruction, events in groupby(rows, lambda row: row.instruction):
        call = calls.get(instruction)
        located += _locate(program, call, [row.name for row in events], nodes or {})
    return located


def _locate(
    program: Program, call: Call | None, names: list[str], nodes: Mapping[str, str]
) -> Iterator[Located]:
    operators = program.operators_of(call) if call else []
    if call and not call.delegated:
        (kernel,) = operators
        yield from (Located(kernel.kind.name, kernel.layer, 0) for _ in names)
        return
    renamed = [
        one._replace(kind=one.kind._replace(name=nodes.get(one.kind.name, one.kind.name)))
        for one in operators
    ]
    for name, (layer, index) in zip(names, aligned(renamed, names), strict=True):
        yield Located(name.replace(TABLE, "Table Lookup"), layer, index)


def layers_of_events(operators: Sequence[Operator], names: Sequence[str]) -> list[str | None]:
    """The layer of each of a delegate's events, aligned by name; None if unknown.

    >>> add = Operator(Kind("Add", False), "block")
    >>> layers_of_events([add], ["Transpose (ND, X32) #1", "Add (ND) #1", "Clamp (NC) #1"])
    [None, 'block', 'block']
    """
    return [layer for layer, _ in aligned(operators, names)]


def aligned(
    operators: Sequence[Operator], names: Sequence[str]
) -> list[tuple[str | None, int | None]]:
    """The layer and the index of the operator of each of a delegate's events.

    Where the alignment is ambiguous, the layer is unknown unless all candidates agree; the operator
    is the first one that leaves the order as it is.
    """
    items = [item for place, one in enumerate(operators) for item in _items(one, place)]
    events = [_event(name) for name in names]

    def match(item: int, event: int) -> int | None:
        return items[item].cost if events[event] in items[item].events else None

    insert = [USUAL if event in PASSING_EVENTS else RARE for event in events]
    result: list[tuple[str | None, int | None]] = []
    last = -1
    for places in candidates([item.elide for item in items], insert, match):
        of = {None if place is None else items[place].operator.layer for place in places}
        later = [place for place in places if place is not None and place > last]
        last = min(later, default=last)
        index = items[last].place if later else None
        result.append((of.pop() if len(of) == 1 else None, index))
    return result


def _items(operator: Operator, place: int) -> Iterator[_Item]:
    kind = operator.kind.name
    events = {event.lower() for event in EVENTS.get(kind, (kind,))}
    if kind in TABULATED:
        events.add(TABLE.lower())
    elide = USUAL if kind in PASSING else RARE
    yield _Item(operator, place, frozenset(events), EXPECTED, elide)
    if kind in BOUNDED:
        yield _Item(operator, place, frozenset({"clamp"}), BEHIND, 0)


def _event(name: str) -> str:
    """The operator in an event's name: 'convolution' for 'Convolution (NHWC, QC8) IGEMM #1'."""
    return name.partition(" (")[0].partition(" #")[0].lower()
