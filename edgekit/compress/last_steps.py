"""How far int8 steps inside a converted program move its outputs, on two correct devices.

An output that ends in float operators. Example: a sigmoid after int8 logits. Two correct devices
may differ by one step of the logits. That moves a score of 0.5 by more than one of 0.001, so no
share of the output's range bounds it. Therefore the last quantized tensors are moved by
DEVICE_STEPS, and the float operators after them run again.

A program with float operators between integer ones. Their results differ between CPUs by the last
bits, which seldom rounds a value to the next step; the layers behind it may enlarge that. So some
values of all quantized tensors are moved by one step, and the whole program runs again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from edgekit.compress.graph import operator_name
from edgekit.compress.reference import DEQUANTIZE
from edgekit.fidelity.agreement import DEVICE_STEPS
from edgekit.fidelity.groups import MAX_GROUPS, Floats
from edgekit.program import MovedBySteps
from edgekit.recipe.tensors import Inputs

# Beside "all up" and "all down": equal steps cancel out in a softmax or a mean, random ones do not.
RANDOM_DRAWS = 4
# The share of a tensor's values that are moved by one step. Differences in the last bits round far
# fewer values to another step.
FLIPPED_SHARE = 1e-4


@dataclass(frozen=True)
class _Tail:
    """The float operators that an output ends in. ``sources``: the tensors that they read."""

    graph: GraphModule
    sources: list[Node]


def moved_by_steps(
    exported: torch.export.ExportedProgram, example: Inputs
) -> list[MovedBySteps | None]:
    """One result for each output; None if it is quantized itself, or nothing before it is."""
    module = exported.module()
    assert isinstance(module, GraphModule)
    outputs = torch.utils._pytree.tree_leaves(module.graph.output_node().args)
    tails = [_tail(module, node) if isinstance(node, Node) else None for node in outputs]
    sources = list(dict.fromkeys(node for tail in tails if tail for node in tail.sources))
    if not sources:
        return [None for _ in outputs]
    with torch.no_grad():
        values = dict(zip(sources, _head(module, sources)(*example), strict=True))
        return [_moved(tail, values) if tail else None for tail in tails]


def moved_by_flips(exported: torch.export.ExportedProgram, example: Inputs) -> list[MovedBySteps]:
    """One result for each output: the largest change of any element."""
    module = exported.module()
    assert isinstance(module, GraphModule)
    with torch.no_grad():
        expected = _leaves(torch.fx.Interpreter(module).run(*example))
        most = [0.0 for _ in expected]
        for seed in range(RANDOM_DRAWS):
            for place, changed in enumerate(_leaves(_Flipping(module, seed).run(*example))):
                moved = (changed.double() - expected[place].double()).abs()
                if moved.numel():
                    largest = float(torch.nan_to_num(moved, posinf=0.0).max())
                    most[place] = max(most[place], largest)
    return [MovedBySteps(whole=_short(value)) for value in most]


class _Flipping(torch.fx.Interpreter):
    """Runs a program, with some values of each quantized tensor moved by one step."""

    def __init__(self, module: GraphModule, seed: int) -> None:
        super().__init__(module)
        self._generator = torch.Generator().manual_seed(seed)

    def run_node(self, n: Node) -> Any:
        value, step = super().run_node(n), _step(n)
        if step is None or not value.numel():
            return value
        count = max(1, int(FLIPPED_SHARE * value.numel()))
        places = torch.randint(0, value.numel(), (count,), generator=self._generator)
        moved = value.clone(memory_format=torch.contiguous_format).flatten()
        moved[places] += step * _signs(moved[places], 2, self._generator)
        return moved.reshape(value.shape)


def _leaves(outputs: Any) -> list[torch.Tensor]:
    return list(torch.utils._pytree.tree_leaves(outputs))


def _step(node: Node) -> float | None:
    """The scale of a dequantized activation; None for any other tensor."""
    if operator_name(node) != DEQUANTIZE or isinstance(node.args[1], Node):
        return None
    stored = node.args[0]
    constant = isinstance(stored, Node) and stored.op == "get_attr"
    return None if constant else float(node.args[1])  # type: ignore[arg-type]


def _tail(module: GraphModule, output: Node) -> _Tail | None:
    """None if there is no int8 tensor to move, or no operator after it."""
    needed, sources, waiting = set[Node](), set[Node](), [output]
    while waiting:
        node = waiting.pop()
        if node.op == "placeholder" or _step(node) is not None:
            sources.add(node)
        elif node not in needed:
            needed.add(node)
            waiting.extend(node.all_input_nodes)
    if output in sources or not any(_step(node) for node in sources):
        return None
    graph, copies = Graph(), dict[Node, Node]()
    for node in module.graph.nodes:
        if node in sources:
            copies[node] = graph.placeholder(node.name)
        elif node in needed:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[output])
    return _Tail(GraphModule(module, graph), [n for n in module.graph.nodes if n in sources])


def _head(module: GraphModule, sources: Sequence[Node]) -> GraphModule:
    """A graph from the inputs to the values of ``sources``."""
    graph, copies = Graph(), dict[Node, Node]()
    graph.graph_copy(module.graph, copies)
    graph.output(tuple(copies[node] for node in sources))
    return GraphModule(module, graph)


def _moved(tail: _Tail, values: dict[Node, torch.Tensor]) -> MovedBySteps | None:
    """The largest change of any element of each group, for one step."""
    generator = torch.Generator().manual_seed(0)
    expected = _run(tail, values, {})
    if not expected.is_floating_point():
        return None
    most = torch.zeros_like(expected, dtype=torch.double)
    for draw in range(2 + RANDOM_DRAWS):
        signs = {
            source.args[0]: _signs(values[source], draw, generator)
            for source in tail.sources
            if _step(source)
        }
        changed = _run(tail, values, signs)
        most = torch.fmax(most, (changed.double() - expected.double()).abs())
    return _by_group(torch.nan_to_num(most, posinf=0.0).numpy() / DEVICE_STEPS)


def _run(
    tail: _Tail, values: dict[Node, torch.Tensor], signs: dict[Any, torch.Tensor]
) -> torch.Tensor:
    """Run the tail on copies, because operators may work in place. ``signs``, by quantized node:
    all dequantizes of one node move alike.
    """
    arguments = []
    for source in tail.sources:
        value, step = values[source].clone(), _step(source) or 0.0
        sign = signs.get(source.args[0]) if step else None
        arguments.append(value if sign is None else value + DEVICE_STEPS * step * sign)
    output: torch.Tensor = tail.graph(*arguments)
    return output


def _signs(like: torch.Tensor, draw: int, generator: torch.Generator) -> torch.Tensor:
    if draw < 2:
        return torch.full_like(like, 1 - 2 * draw)
    return torch.randint(0, 2, like.shape, generator=generator).to(like.dtype) * 2 - 1


def _by_group(moved: Floats) -> MovedBySteps:
    groups = {}
    for axis, length in enumerate(moved.shape):
        if 1 < length <= MAX_GROUPS:
            others = tuple(other for other in range(moved.ndim) if other != axis)
            groups[axis] = tuple(map(_short, moved.max(axis=others)))
    return MovedBySteps(whole=_short(moved.max(initial=0.0)), groups=groups)


def _short(value: float) -> float:
    """Rounded up to 4 digits: later ones differ between hosts, and the manifest is sent with every
    update.
    """
    return float(f"{value * 1.001:.4g}")
