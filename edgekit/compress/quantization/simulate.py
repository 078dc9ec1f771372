"""A simulation of the int8 artifact in torch, with roundings that can be switched one by one.

A graph prepared for quantization (PT2E) has an observer wherever a value will be stored as
integers. The simulation replaces each by a ``Rounding``, which quantizes and dequantizes the value.
It is fast enough to try many quantizations of a model; lowering is not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from edgekit.compress.batches import can_batch, concatenate, rows_of
from edgekit.compress.graph import containers, is_elementwise, layer_of, operator_name, tensor_at
from edgekit.compress.quantization.affine import Grid, Steps
from edgekit.compress.quantization.straight_through import straight_through
from edgekit.recipe.tensors import Inputs

Kind = Literal["weights", "activations"]
Outputs = list[torch.Tensor]
ANNOTATION = "quantization_annotation"
BATCH = 4


@dataclass(frozen=True)
class Point:
    """A place where a value is rounded.

    ``name``: of the observer's node. ``owners``: the layers (``graph.layer_of``) that need the
    value as integers; it is float only if all of them are. ``layer``: the owner that the step is
    attributed to. Points of one ``group`` share their steps.
    """

    name: str
    kind: Kind
    layer: str
    owners: frozenset[str]
    group: int
    grid: Grid
    axis: int | None


class Rounding(torch.nn.Module):
    """Quantizes and dequantizes a value if ``on``. ``tap`` is called with every value."""

    def __init__(self) -> None:
        super().__init__()
        self.on = False
        self.steps: Steps | None = None
        self.tap: Callable[[torch.Tensor], None] | None = None

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        if self.tap is not None:
            self.tap(value)
        if not self.on or self.steps is None:
            return value
        return fake_quantize(value, self.steps).to(value.dtype)  # may be float16


def fake_quantize(value: torch.Tensor, steps: Steps) -> torch.Tensor:
    """``affine.round_trip`` without checks: in float32, and six times as fast as
    torch.fake_quantize. Gradients pass straight through.
    """
    scale, zero_point = steps.spread(value)
    low, high = steps.grid.low - zero_point, steps.grid.high - zero_point
    if torch.is_grad_enabled() and value.requires_grad:
        return straight_through(value, scale, low, high)
    return value.mul(1 / scale).round_().clamp_(low, high).mul_(scale)


def everywhere(point: Point) -> bool:  # noqa: ARG001
    return True


def nowhere(point: Point) -> bool:  # noqa: ARG001
    return False


class Simulation:
    """The prepared graph with a ``Rounding`` for each observer. ``graph`` has the float weights,
    with batch norms folded; repairs edit them in place.
    """

    def __init__(self, prepared: GraphModule) -> None:
        self.graph = copy.deepcopy(prepared)
        self.points = read_points(self.graph)
        self.roundings = {point.name: Rounding() for point in self.points.values()}
        for name, rounding in self.roundings.items():
            setattr(self.graph, name, rounding)
            node = self.node(name)
            node.target = name
        for node in list(self.graph.graph.nodes):
            if node.op == "call_module" and node.name not in self.roundings:
                _remove(node)
        self.graph.recompile()
        self._batches: bool | None = None

    def node(self, name: str) -> Node:
        match: Node = next(node for node in self.graph.graph.nodes if node.name == name)
        return match

    def weight(self, point: Point) -> torch.Tensor:
        """The parameter that is rounded at a point of kind "weights"."""
        return tensor_at(self.graph, self.node(point.name).all_input_nodes[0])

    @property
    def groups(self) -> dict[int, list[Point]]:
        groups: dict[int, list[Point]] = {}
        for point in self.points.values():
            groups.setdefault(point.group, []).append(point)
        return groups

    def set_steps(self, group: int, steps: Steps) -> None:
        for point in self.groups[group]:
            self.roundings[point.name].steps = steps

    @contextmanager
    def rounding(self, wanted: Callable[[Point], bool]) -> Iterator[None]:
        """Round at the points for which ``wanted(point)`` is true, and nowhere else."""
        previous = {name: rounding.on for name, rounding in self.roundings.items()}
        for name, point in self.points.items():
            self.roundings[name].on = wanted(point)
        try:
            yield
        finally:
            for name, on in previous.items():
                self.roundings[name].on = on

    def run(self, data: Sequence[Inputs]) -> list[Outputs]:
        """Flat outputs for each of the inputs; computed in batches if the graph can."""
        batches = self.batches(data)
        with torch.no_grad():
            if not batches:
                return [self._flat(inputs) for inputs in data]
            results: list[Outputs] = []
            for start in range(0, len(data), BATCH):
                part = data[start : start + BATCH]
                rows = [tensor.chunk(len(part)) for tensor in self._flat(concatenate(part))]
                results += [list(outputs) for outputs in zip(*rows, strict=True)]
            return results

    def batches(self, data: Sequence[Inputs]) -> bool:
        """Whether the graph can compute several inputs at once; tried once, with the first two."""
        if self._batches is None:
            with self.rounding(nowhere):
                self._batches = can_batch(self._flat, data)
        return self._batches

    def forward(self, inputs: Inputs, rows: int) -> Outputs:
        """Flat outputs for a batch, with gradients. The graph was exported for ``rows`` rows; if it
        cannot compute more at once, it runs several times.
        """
        if self._batches or rows_of(inputs) == rows:
            return self._flat(inputs)
        count = rows_of(inputs) // rows
        parts = zip(*(tensor.chunk(count) for tensor in inputs), strict=True)
        outputs = [self._flat(part) for part in parts]
        return [torch.cat(tensors) for tensors in zip(*outputs, strict=True)]

    def _flat(self, inputs: Inputs) -> Outputs:
        return cast(Outputs, pytree.tree_leaves(self.graph(*inputs)))


def _remove(node: Node) -> None:
    """Remove a guard or a dynamic observer, whose rounding by rows loses hardly anything."""
    if node.users:
        node.replace_all_uses_with(node.all_input_nodes[0])
    node.graph.erase_node(node)


def read_points(prepared: GraphModule) -> dict[str, Point]:
    """The points of a prepared graph by the names of the observers' nodes, in order."""
    modules = dict(prepared.named_modules(remove_duplicate=False))
    holding = containers(prepared.graph)
    points: dict[str, Point] = {}
    for node in prepared.graph.nodes:
        observer: Any = modules.get(str(node.target)) if node.op == "call_module" else None
        if not hasattr(observer, "calculate_qparams") or getattr(observer, "is_dynamic", False):
            continue
        behind = node.all_input_nodes[0]
        kind: Kind = "weights" if behind.op == "get_attr" else "activations"
        owners = list(_owners(behind, list(node.users), holding))
        points[node.name] = Point(
            name=node.name,
            kind=kind,
            layer=owners[0] if owners else "",  # the producer, else the first reader
            owners=frozenset(owners),
            group=id(observer),
            grid=_grid(observer),
            axis=observer.ch_axis if "channel" in str(observer.qscheme) else None,
        )
    numbers = {group: number for number, group in enumerate({p.group: 0 for p in points.values()})}
    concatenations = _joined(prepared, points, holding)
    return {
        name: replace(
            point,
            group=numbers[point.group],
            layer=concatenations.get(point.group, point.layer),
        )
        for name, point in points.items()
    }


def _joined(
    prepared: GraphModule, points: Mapping[str, Point], holding: frozenset[str]
) -> dict[int, str]:
    """By group, the concatenation that forces its parts to share one step."""
    return {
        points[value.name].group: layer_of(node, holding)
        for node in prepared.graph.nodes
        if operator_name(node) == "cat"
        for value in node.all_input_nodes
        if value.name in points
    }


def _owners(behind: Node, users: Iterable[Node], holding: frozenset[str]) -> Iterator[str]:
    """The layers that need a value as integers: its producer first, then its readers."""
    annotation = behind.meta.get(ANNOTATION)
    if annotation is not None and annotation.output_qspec is not None:
        yield layer_of(_computing(behind), holding)
    for user in users:
        wants = getattr(user.meta.get(ANNOTATION), "input_qspec_map", {})
        if any(value is behind or getattr(value, "name", "") == behind.name for value in wants):
            yield layer_of(_computing(user), holding)


def _computing(node: Node) -> Node:
    """The layer that an activation function follows: the two are float or int8 together."""
    while is_elementwise(node):
        behind = node.all_input_nodes[0]
        if behind.op == "call_module":  # an observer between them
            behind = behind.all_input_nodes[0]
        if behind.op != "call_function" or len(behind.users) != 1:
            return node
        node = behind
    return node


def _grid(observer: Any) -> Grid:
    width = observer.quant_max - observer.quant_min + 1
    return Grid(bits=max(2, (width - 1).bit_length()), symmetric=observer.quant_min % 2 != 0)


@contextmanager
def tapping(
    simulation: Simulation, tap: Callable[[Point], Callable[[torch.Tensor], None] | None]
) -> Iterator[None]:
    """Call the function that ``tap(point)`` returns, if any, with every value at that point."""
    for name, point in simulation.points.items():
        simulation.roundings[name].tap = tap(point)
    try:
        yield
    finally:
        for rounding in simulation.roundings.values():
            rounding.tap = None
