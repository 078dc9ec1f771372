"""Turns states of a model into inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from edgekit.pipeline.normal_form.flat_call import Forward, may_have_another, owner_of, with_forward
from edgekit.pipeline.normal_form.slots import Slot, Values, duplicate, placed, read, remove

CLONE = torch.ops.aten.clone.default
# The name of a module inside ``flat_call.Around``.
PART = "model"
DATA: Any = torch.Tensor.data


class State(NamedTuple):
    """One state tensor: the name of its input, and all slots of the model that hold it. ``leaf``:
    its index in a slot with several tensors.
    """

    name: str
    slots: tuple[Slot, ...]
    leaf: int
    initial: torch.Tensor


def with_states(
    model: nn.Module, states: Sequence[State], held: Mapping[Slot, Any], inputs: int
) -> nn.Module:
    """``model`` with a forward that takes its ``inputs`` and then the states, and returns its
    outputs and then the new states. ``held``: slots that forward writes but outputs do not need;
    they keep these values. ``model`` may be changed in place.
    """
    if isinstance(model, fx.GraphModule):
        _edit_graph(model, states, list(held))
        _remove(model, states)
        return model
    values = _places(model, states)
    _remove(model, states)
    if not may_have_another(model):  # with_forward will wrap it
        states = [state._replace(slots=tuple(map(_in_part, state.slots))) for state in states]
        values = {_in_part(slot): value for slot, value in values.items()}
        held = {_in_part(slot): value for slot, value in held.items()}
    return with_forward(model, lambda own: StatefulForward(own, states, values, held, inputs))


def _places(model: nn.Module, states: Sequence[State]) -> Values:
    """The value of each slot, with the index of a state in place of its tensor."""
    values: Values = {}
    for slots in dict.fromkeys(state.slots for state in states):
        places = [place for place, state in enumerate(states) if state.slots == slots]
        tree = pytree.tree_structure(read(model, slots[0]))
        values |= dict.fromkeys(slots, pytree.tree_unflatten(places, tree))
    return values


class StatefulForward:
    """A forward that writes copies of the states to their slots, and reads the new ones there."""

    def __init__(
        self,
        forward: Forward,
        states: Sequence[State],
        places: Values,
        held: Mapping[Slot, Any],
        inputs: int,
    ) -> None:
        self.forward, self.inputs = forward, inputs
        self.states, self.places, self.held = states, places, held

    def __call__(self, *arguments: torch.Tensor) -> tuple[Any, ...]:
        model = owner_of(self.forward)
        copies = [tensor.clone() for tensor in arguments[self.inputs :]]
        values = {slot: duplicate(value) for slot, value in self.held.items()}
        for slot, places in self.places.items():
            values[slot] = pytree.tree_map(copies.__getitem__, places)
        with placed(model, values), _TracedData():
            outputs = self.forward(*arguments[: self.inputs])
            new = [pytree.tree_leaves(read(model, s.slots[0]))[s.leaf] for s in self.states]
        return outputs, *_apart(new, arguments, outputs)


def _in_part(slot: Slot) -> Slot:
    return Slot(f"{PART}.{slot.module}".rstrip("."), slot.attribute)


def _remove(model: nn.Module, states: Sequence[State]) -> None:
    """Remove the states' tensors; an exported file would hold them as constants."""
    for state in states:
        for slot in state.slots:
            remove(model, slot)


class _TracedData(TorchFunctionMode):
    """Replaces ``tensor.data`` by the tensor itself: torch.export cannot trace writes to ``data``.
    Without gradients the two are equal.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func == DATA.__get__:
            return args[0]
        if func == DATA.__set__ and args[0].shape == args[1].shape:
            return args[0].copy_(args[1])
        return func(*args, **(kwargs or {}))


def _apart(
    new: Sequence[torch.Tensor], arguments: Sequence[torch.Tensor], outputs: Any
) -> list[torch.Tensor]:
    """The new states, copied where they are an input or an output: a runtime has no aliases."""
    taken = {id(tensor) for tensor in (*arguments, *pytree.tree_leaves(outputs))}
    separate = []
    for tensor in new:
        separate.append(tensor.clone() if id(tensor) in taken else tensor)
        taken.add(id(tensor))
    return separate


def _edit_graph(model: fx.GraphModule, states: Sequence[State], held: Sequence[Slot]) -> None:
    """Edit a traced graph in place, which keeps its nodes and the names of its layers."""
    graph = model.graph
    first = next(node for node in reversed(graph.nodes) if node.op == "placeholder").next
    names, new = [], []
    for state in states:
        with graph.inserting_before(first):
            placeholder = graph.placeholder(_unused(state.name, graph))
            copied = graph.call_function(CLONE, (placeholder,))
        _replace_slots(graph, state.slots, copied)
        with graph.inserting_before(graph.output_node()):
            new.append(graph.call_function(CLONE, (copied,)))
        names.append(placeholder.name)
    for slot in held:
        with graph.inserting_before(first):
            copied = graph.call_function(CLONE, (graph.get_attr(str(slot)),))
        _replace_slots(graph, (slot,), copied)
    _append_outputs(graph, names, new)
    model.recompile()


def _replace_slots(graph: fx.Graph, slots: Sequence[Slot], replacement: fx.Node) -> None:
    """Make all readers and writers of the slots use the node ``replacement``."""
    targets = {str(slot) for slot in slots}
    for node in list(graph.nodes):
        if node.op == "get_attr" and node.target in targets and node is not replacement.args[0]:
            node.replace_all_uses_with(replacement)
            graph.erase_node(node)


def _append_outputs(graph: fx.Graph, names: Sequence[str], new: Sequence[fx.Node]) -> None:
    """Add the inputs and outputs to the signature of the graph's code."""
    codegen: Any = graph._codegen
    info, output = codegen.pytree_info, graph.output_node()
    leaves = output.args[0]
    assert isinstance(leaves, (tuple, list))
    output.args = ((*leaves, *new),)
    outputs = pytree.tree_unflatten([0] * len(leaves), info.out_spec)
    arguments = [*info.orig_args, *names]
    codegen.pytree_info = info._replace(
        orig_args=arguments,
        in_spec=pytree.tree_structure((tuple(range(len(arguments))), {})),
        out_spec=pytree.tree_structure((outputs, *range(len(new)))),
    )


def _unused(name: str, graph: fx.Graph) -> str:
    taken = {node.name for node in graph.nodes}
    while name in taken:
        name += "_state"
    return name
