"""Which channels of a model must go together: groups of layers, found by dependency graph.

G. Fang et al., "DepGraph: Towards Any Structural Pruning" (2023, arXiv:2301.12900), by their
library torch-pruning. Whatever it says is tried on a copy: a channel that nobody reads any more
may be removed, and the function must stay what it was. What fails that is told, by layer.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from edgekit.compress.copying import copy_of
from edgekit.recipe.tensors import Inputs

# Between the pruned copy and one that reads zeros there: sums of fewer terms.
SAME_TOLERANCE = 1e-3
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Place:
    """Where a group touches a layer: its outputs or its inputs. ``channels[i]`` is the layer's own
    index of what is channel ``roots[i]`` of the group.
    """

    layer: str
    output: bool
    channels: tuple[int, ...]
    roots: tuple[int, ...]

    def of(self, channels: Sequence[int]) -> list[int]:
        """The layer's own indices of these channels of the group."""
        chosen = set(channels)
        return [c for c, root in zip(self.channels, self.roots, strict=True) if root in chosen]


@dataclass(frozen=True)
class Group:
    """``count`` channels of ``layer``, and all places that go with them. They go in blocks of
    ``unit`` only: the heads of an attention.
    """

    layer: str
    count: int
    places: tuple[Place, ...]
    unit: int = 1

    def step(self, wanted: int) -> int:
        """What widths are multiples of, where ``wanted`` is what kernels like."""
        return self.unit if self.unit > 1 else wanted

    @property
    def readers(self) -> tuple[Place, ...]:
        return tuple(place for place in self.places if not place.output)


@dataclass(frozen=True)
class Refused:
    layer: str
    why: str


def find_groups(model: nn.Module, example: Inputs) -> tuple[list[Group], list[Refused]]:
    """The groups that may lose channels, and the layers that may not with the reason.

    ``model`` stays as it is. Every group is tried on a copy, a second or so each.
    """
    groups: list[Group] = []
    refused = list(_recurrent(model))
    expected = outputs_of(model, example)
    try:
        graph = _Graph(copy_of(model), example)
    except Exception as error:
        return [], [*refused, Refused("", f"torch-pruning cannot follow it: {_said(error)}")]
    for found in _groups(graph):
        if isinstance(found, Group) and not found.readers:
            continue  # its channels are outputs of the model: nobody expects them to go
        tried = found if isinstance(found, Refused) else _tried(model, example, found, expected)
        if isinstance(tried, Refused):
            refused.append(tried)
        else:
            groups.append(tried)
    return groups, refused


def _tried(
    model: nn.Module, example: Inputs, group: Group, expected: list[torch.Tensor]
) -> Group | Refused:
    """By single channels, else by blocks of the sizes that the modules around tell."""
    first = _why_not(model, example, group, expected)
    if first is None:
        return group
    for unit in _units(model, group):
        blocks = replace(group, unit=unit)
        if _why_not(model, example, blocks, expected) is None:
            return blocks
    return Refused(group.layer, first)


def _units(model: nn.Module, group: Group) -> list[int]:
    """Numbers that the modules around have written down (how many heads, how wide each), as far as
    they divide the channels into blocks.
    """
    around = {place.layer.rpartition(".")[0] for place in group.places}
    told = {
        value
        for name in around
        for value in vars(model.get_submodule(name)).values()
        if type(value) is int and 1 < value < group.count and group.count % value == 0
    }
    return sorted(told | {group.count // value for value in told})


def without_channels(
    model: nn.Module, example: Inputs, gone: Mapping[str, Sequence[int]]
) -> nn.Module:
    """A copy of the model without these channels of the groups that the layers are the first of."""
    pruned = copy_of(model)
    graph = _Graph(pruned, example)
    for layer, channels in gone.items():
        graph.group(layer, list(channels)).prune()
    for parameter in pruned.parameters():
        parameter.grad = None
    return pruned.eval()


def silenced(
    model: nn.Module, groups: Sequence[Group], gone: Mapping[str, Sequence[int]]
) -> nn.Module:
    """A copy in which nobody reads these channels: what removing them must be equal to."""
    copied = copy_of(model)
    layers = dict(copied.named_modules())
    with torch.no_grad():
        for group in groups:
            for place in group.readers:
                dead = torch.tensor(place.of(gone.get(group.layer, ())), dtype=torch.long)
                inputs_of(layers[place.layer]).index_fill_(0, dead, 0)
    return copied


def inputs_of(layer: nn.Module) -> torch.Tensor:
    """Its weight, a view, with the inputs first."""
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    return weight.detach() if isinstance(layer, TRANSPOSED) else weight.detach().transpose(0, 1)


def same_function(one: nn.Module, other: nn.Module, example: Inputs) -> bool:
    return _is_same(outputs_of(one, example), outputs_of(other, example))


class _Graph:
    """torch-pruning's dependency graph, with the layers by their names."""

    def __init__(self, model: nn.Module, example: Inputs) -> None:
        import torch_pruning

        self.layers = dict(model.named_modules())
        self.names = {module: name for name, module in self.layers.items()}
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            self.found: Any = torch_pruning.DependencyGraph().build_dependency(model, example)

    def group(self, layer: str, channels: list[int]) -> Any:
        module = self.layers[layer]
        pruner = self.found.get_pruner_of_module(module)
        return self.found.get_pruning_group(module, pruner.prune_out_channels, channels)


def _groups(graph: _Graph) -> Iterator[Group | Refused]:
    """Each by the first of its layers; every layer's outputs belong to one group at most."""
    met: set[str] = set()
    for name, layer in graph.layers.items():
        if name in met or not isinstance(layer, LAYERS) or layer not in graph.found.module2node:
            continue
        try:
            group = _read(graph, name, len(layer.weight))
        except Exception as error:
            yield Refused(name, f"torch-pruning cannot follow its channels: {_said(error)}")
            continue
        met |= {place.layer for place in group.places if place.output}
        yield group


def _read(graph: _Graph, layer: str, count: int) -> Group:
    places = []
    for item in graph.group(layer, list(range(count))).items:
        module, handler = item.dep.target.module, item.dep.handler
        if module not in graph.names or not getattr(module, "weight", None) is not None:
            continue
        output = graph.found.is_out_channel_pruning_fn(handler)
        if output or isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            channels, roots = tuple(map(int, item.idxs)), tuple(map(int, item.root_idxs))
            places.append(Place(graph.names[module], output, channels, roots))
    return Group(layer, count, tuple(places))


def _said(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]


def _why_not(
    model: nn.Module, example: Inputs, group: Group, expected: list[torch.Tensor]
) -> str | None:
    """None where removing some channels or blocks is the same as nobody reading them."""
    layers = dict(model.named_modules())
    if group.count < 2:
        return "it has one channel"
    if any(set(place.roots) != set(range(group.count)) for place in group.readers):
        return "some of its channels are read together with others: they are split or rearranged"
    for place in group.places:
        groups = getattr(layers[place.layer], "groups", 1)
        if groups > 1 and groups != getattr(layers[place.layer], "out_channels", groups):
            return f"'{place.layer}' is a grouped convolution"
    blocks = range(group.count // group.unit)
    chosen = {blocks[0], blocks[len(blocks) // 2], blocks[-1]} if len(blocks) > 3 else {blocks[-1]}
    unit = range(group.unit)
    gone = {group.layer: [block * group.unit + index for block in sorted(chosen) for index in unit]}
    try:
        pruned = without_channels(model, example, gone)
        found = outputs_of(pruned, example)
    except Exception as error:
        return f"forward counts on its width (a reshape, a pad, a split?): {_said(error)}"
    if parameters_of(pruned) >= parameters_of(model):
        return "nothing is removed: its channels are not seen, or their weights are shared"
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
        return "its channels are outputs of the model"
    if not _is_same(found, outputs_of(silenced(model, [group], gone), example)):
        return "removing a channel changes the others: they are normalized or arranged together"
    return None


def _recurrent(model: nn.Module) -> Iterator[Refused]:
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase):
            yield Refused(name, f"{type(module).__name__}: recurrent layers are not pruned")
        elif isinstance(module, nn.MultiheadAttention):
            yield Refused(name, "MultiheadAttention: its projections are one fused weight")


def with_own_weights(model: nn.Module) -> Iterator[str]:
    """Layers whose weight nobody else has, an embedding for one."""
    owners = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
    for name, module in model.named_modules():
        if isinstance(module, LAYERS) and owners[id(module.weight)] == 1:
            yield name


def parameters_of(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def outputs_of(model: nn.Module, example: Inputs) -> list[torch.Tensor]:
    with torch.no_grad():
        return [t for t in torch.utils._pytree.tree_leaves(model(*example)) if torch.is_tensor(t)]


def _is_same(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> bool:
    return all(
        a.shape == b.shape
        and float((a.double() - b.double()).abs().max())
        <= SAME_TOLERANCE * max(1e-12, float(b.double().abs().max()))
        for a, b in zip(one, other, strict=True)
        if a.is_floating_point() and a.numel()
    )
