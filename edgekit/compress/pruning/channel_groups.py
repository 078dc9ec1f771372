"""Groups of channels that must be removed together, from a dependency graph of the layers.

G. Fang et al., "DepGraph: Towards Any Structural Pruning" (2023, arXiv:2301.12900), by their
library torch-pruning. Every group is verified on a copy: if no layer reads a channel, removing it
must not change the outputs. Layers that fail are reported with the reason.
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
from edgekit.compress.graph import within
from edgekit.recipe.tensors import Inputs

# Between the pruned copy and one with zero weights instead: their sums have fewer terms.
SAME_TOLERANCE = 1e-3
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Place:
    """The outputs or inputs of a layer that belong to a group. ``channels[i]`` of the layer is
    channel ``roots[i]`` of the group.
    """

    layer: str
    output: bool
    channels: tuple[int, ...]
    roots: tuple[int, ...]

    def of(self, channels: Sequence[int]) -> list[int]:
        """The layer's indices of these channels of the group."""
        wanted = set(channels)
        return [c for c, root in zip(self.channels, self.roots, strict=True) if root in wanted]


@dataclass(frozen=True)
class Group:
    """``count`` channels of ``layer``, and all places that lose channels with them. They can only
    be removed in blocks of ``unit``, such as the heads of an attention.
    """

    layer: str
    count: int
    places: tuple[Place, ...]
    unit: int = 1

    def step(self, wanted: int) -> int:
        """The number that widths are multiples of. ``wanted``: the multiple that suits kernels."""
        return self.unit if self.unit > 1 else wanted

    def writes(self, modules: Sequence[str]) -> bool:
        """Whether output channels of a layer in one of these modules belong to the group."""
        layers = [place.layer for place in self.places if place.output]
        return any(within(layer, module) for layer in layers for module in modules)

    @property
    def readers(self) -> tuple[Place, ...]:
        return tuple(place for place in self.places if not place.output)


@dataclass(frozen=True)
class UnprunableLayer:
    layer: str
    why: str


def find_groups(model: nn.Module, example: Inputs) -> tuple[list[Group], list[UnprunableLayer]]:
    """The groups that can lose channels, and the layers that cannot, with the reason.

    ``model`` is unchanged. Every group is verified on a copy, which takes about a second.
    """
    groups: list[Group] = []
    refused = list(_recurrent(model))
    expected = outputs_of(model, example)
    try:
        graph = _Graph(copy_of(model), example)
    except Exception as error:
        return [], [
            *refused,
            UnprunableLayer("", f"torch-pruning cannot trace it: {summary(error)}"),
        ]
    for candidate in _groups(graph):
        if isinstance(candidate, Group) and not candidate.readers:
            continue  # its channels are outputs of the model
        checked = (
            candidate
            if isinstance(candidate, UnprunableLayer)
            else _verify(model, example, candidate, expected)
        )
        if isinstance(checked, UnprunableLayer):
            refused.append(checked)
        else:
            groups.append(checked)
    return groups, refused


def _verify(
    model: nn.Module, example: Inputs, group: Group, expected: list[torch.Tensor]
) -> Group | UnprunableLayer:
    """The group if single channels can be removed; else blocks, of a size that a module names."""
    first = _why_not(model, example, group, expected)
    if first is None:
        return group
    for unit in _units(model, group):
        blocks = replace(group, unit=unit)
        if _why_not(model, example, blocks, expected) is None:
            return blocks
    return UnprunableLayer(group.layer, first)


def _units(model: nn.Module, group: Group) -> list[int]:
    """Block sizes to try: integer attributes of the surrounding modules (such as the number of
    heads) that divide the channels.
    """
    parents = {place.layer.rpartition(".")[0] for place in group.places}
    sizes = {
        value
        for name in parents
        for value in vars(model.get_submodule(name)).values()
        if type(value) is int and 1 < value < group.count and group.count % value == 0
    }
    return sorted(sizes | {group.count // value for value in sizes})


def without_channels(
    model: nn.Module, example: Inputs, removed: Mapping[str, Sequence[int]]
) -> nn.Module:
    """A copy of the model without the channels ``removed``, by the first layer of their group."""
    pruned = copy_of(model)
    graph = _Graph(pruned, example)
    for layer, channels in removed.items():
        graph.group(layer, list(channels)).prune()
    for parameter in pruned.parameters():
        parameter.grad = None
    return pruned.eval()


def with_channels_at_zero(
    model: nn.Module, groups: Sequence[Group], removed: Mapping[str, Sequence[int]]
) -> nn.Module:
    """A copy in which no layer reads these channels: removing them must give the same outputs."""
    copied = copy_of(model)
    layers = dict(copied.named_modules())
    with torch.no_grad():
        for group in groups:
            for place in group.readers:
                dead = torch.tensor(place.of(removed.get(group.layer, ())), dtype=torch.long)
                inputs_of(layers[place.layer]).index_fill_(0, dead, 0)
    return copied


def inputs_of(layer: nn.Module) -> torch.Tensor:
    """A view of the layer's weight with the inputs first."""
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    return weight.detach() if isinstance(layer, TRANSPOSED) else weight.detach().transpose(0, 1)


def same_function(one: nn.Module, other: nn.Module, example: Inputs) -> bool:
    return _is_same(outputs_of(one, example), outputs_of(other, example))


class _Graph:
    """torch-pruning's dependency graph, addressed by layer names."""

    def __init__(self, model: nn.Module, example: Inputs) -> None:
        import torch_pruning

        self.layers = dict(model.named_modules())
        self.names = {module: name for name, module in self.layers.items()}
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            self.dependencies: Any = torch_pruning.DependencyGraph().build_dependency(
                model, example
            )

    def group(self, layer: str, channels: list[int]) -> Any:
        module = self.layers[layer]
        pruner = self.dependencies.get_pruner_of_module(module)
        return self.dependencies.get_pruning_group(module, pruner.prune_out_channels, channels)


def _groups(graph: _Graph) -> Iterator[Group | UnprunableLayer]:
    """One group for each first layer; a layer's outputs belong to at most one group."""
    assigned: set[str] = set()
    for name, layer in graph.layers.items():
        if (
            name in assigned
            or not isinstance(layer, LAYERS)
            or layer not in graph.dependencies.module2node
        ):
            continue
        try:
            group = _read(graph, name, len(layer.weight))
        except Exception as error:
            yield UnprunableLayer(
                name, f"torch-pruning cannot trace its channels: {summary(error)}"
            )
            continue
        assigned |= {place.layer for place in group.places if place.output}
        yield group


def _read(graph: _Graph, layer: str, count: int) -> Group:
    places = []
    for item in graph.group(layer, list(range(count))).items:
        module, handler = item.dep.target.module, item.dep.handler
        if module not in graph.names or not getattr(module, "weight", None) is not None:
            continue
        output = graph.dependencies.is_out_channel_pruning_fn(handler)
        if output or isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            channels, roots = tuple(map(int, item.idxs)), tuple(map(int, item.root_idxs))
            places.append(Place(graph.names[module], output, channels, roots))
    return Group(layer, count, tuple(places))


def summary(error: Exception) -> str:
    """The first line of its message."""
    return (str(error) or type(error).__name__).splitlines()[0][:120]


def _why_not(
    model: nn.Module, example: Inputs, group: Group, expected: list[torch.Tensor]
) -> str | None:
    """Why channels of the group cannot be removed; None if removing some of them, or some blocks,
    gives the same outputs as zero weights for them.
    """
    layers = dict(model.named_modules())
    if group.count < 2:
        return "it has one channel"
    if any(set(place.roots) != set(range(group.count)) for place in group.readers):
        return "some of its channels are split or rearranged before they are read"
    for place in group.places:
        groups = getattr(layers[place.layer], "groups", 1)
        if groups > 1 and groups != getattr(layers[place.layer], "out_channels", groups):
            return f"'{place.layer}' is a grouped convolution"
    blocks = range(group.count // group.unit)
    tried = {blocks[0], blocks[len(blocks) // 2], blocks[-1]} if len(blocks) > 3 else {blocks[-1]}
    unit = range(group.unit)
    removed = {
        group.layer: [block * group.unit + index for block in sorted(tried) for index in unit]
    }
    try:
        pruned = without_channels(model, example, removed)
        outputs = outputs_of(pruned, example)
    except Exception as error:
        return f"forward depends on its width (a reshape, pad or split?): {summary(error)}"
    if parameters_of(pruned) >= parameters_of(model):
        return "removing its channels removes no weights: they are untraceable or shared"
    if [tensor.shape for tensor in outputs] != [tensor.shape for tensor in expected]:
        return "its channels are outputs of the model"
    if not _is_same(outputs, outputs_of(with_channels_at_zero(model, [group], removed), example)):
        return (
            "removing a channel changes other channels: they are normalized or reordered together"
        )
    return None


def _recurrent(model: nn.Module) -> Iterator[UnprunableLayer]:
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase):
            yield UnprunableLayer(name, f"{type(module).__name__}: recurrent layers are not pruned")
        elif isinstance(module, nn.MultiheadAttention):
            yield UnprunableLayer(name, "MultiheadAttention: its projections are one fused weight")


def with_own_weights(model: nn.Module) -> Iterator[str]:
    """The layers whose weight is not shared, for example with an embedding."""
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
