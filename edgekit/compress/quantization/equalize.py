"""Cross-layer equalization: channels of one tensor share 256 steps, so give them similar ranges.

A channel may be divided by any positive number where it is produced and multiplied by it where it
is read. The float model is unchanged if everything between is positively homogeneous (f(sx) = s
f(x): ReLU, LeakyReLU, pooling, addition). M. Nagel et al., "Data-Free Quantization Through Weight
Equalization and Bias Correction" (2019, arXiv:1906.04721), choose the number by the weights of two
layers. G. Xiao et al., "SmoothQuant" (2022, arXiv:2211.10438), weigh activations against weights,
which suits weights with steps for each channel. This module does the latter, across any number of
layers: all layers that read or add to one stream of channels are scaled together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch.fx import Node

from edgekit.compress.graph import groups_of, operator_name, tensor_at
from edgekit.compress.quantization.observe import ObservedValues
from edgekit.compress.quantization.simulate import Simulation

HOMOGENEOUS = {
    "relu", "leaky_relu", "prelu", "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "dropout", "clone", "contiguous", "alias",
    "upsample_nearest2d", "upsample_bilinear2d", "mean",
}  # fmt: skip
ADDING = {"add", "sub"}
CONVOLUTION = {"conv1d", "conv2d"}
# Least factor of a channel, relative to the widest one.
NARROWEST = 1e-5


@dataclass
class Stream:
    """Values that scale together, with the nodes that produce them (``makers``), the nodes that
    read them (``users``) and the points where they are observed.

    ``channels``: their number. ``last``: they lie along the last axis, else along the second.
    """

    channels: int
    last: bool
    makers: list[Node] = field(default_factory=list)
    users: list[Node] = field(default_factory=list)
    points: list[str] = field(default_factory=list)
    frozen: bool = False


def equalize(simulation: Simulation, seen: dict[str, ObservedValues], share: float) -> int:
    """Equalize all streams in place and return their number.

    ``share`` (0 to 1): how much of the difference between channels moves from the activations to
    the weights that read them. Depthwise weights have steps for each channel, so for them all of
    it moves.
    """
    done = 0
    for stream in streams(simulation):
        factors = _factors(simulation, stream, seen, share)
        if factors is None:
            continue
        for node in stream.makers:
            _scale_maker(simulation, node, 1 / factors)
        for node in stream.users:
            _scale_user(simulation, node, factors)
        done += 1
    return done


def streams(simulation: Simulation) -> list[Stream]:
    """All streams with only homogeneous operators between makers and users."""
    by_node: dict[Node, Stream] = {}
    for node in simulation.graph.graph.nodes:
        if node.op == "call_module" and node.name in simulation.points:
            stream = by_node.get(node.all_input_nodes[0])
            if stream is not None:
                stream.points.append(node.name)
                by_node[node] = stream
        elif node.op == "call_function":
            _place(simulation, node, by_node)
        elif node.op == "output":
            for value in node.all_input_nodes:
                _freeze(by_node.get(value))
    unique = {id(stream): stream for stream in by_node.values()}
    return [s for s in unique.values() if not s.frozen and s.makers and s.users]


def _place(simulation: Simulation, node: Node, by_node: dict[Node, Stream]) -> None:
    name = operator_name(node)
    inputs = [value for value in node.all_input_nodes if value in by_node]
    if len(inputs) == 1 and _keeps_channels(node, by_node[inputs[0]]):
        by_node[node] = by_node[inputs[0]]
    elif name in ADDING and len(inputs) == 2 and not node.kwargs and _alike(node, inputs):
        by_node[node] = _merge(by_node, *inputs)
    else:
        for value in inputs:
            if value is node.args[0] and _uses(simulation, node, by_node[value]):
                by_node[value].users.append(node)
            else:
                _freeze(by_node[value])
        stream = _new_stream(simulation, node)
        if stream is not None:
            by_node[node] = stream


def _shape(node: Node) -> list[int]:
    if node.op == "call_module":  # an observer: it has the shape of its input
        node = node.all_input_nodes[0]
    return list(getattr(node.meta.get("val"), "shape", []))


def _keeps_channels(node: Node, stream: Stream) -> bool:
    name = operator_name(node)
    if name == "flatten":
        return _flattens_pixels(node, stream)
    if name not in HOMOGENEOUS:
        return False
    if name == "mean":
        axes = node.args[1] if len(node.args) > 1 else None
        if stream.last or not isinstance(axes, (list, tuple)):
            return False
        dimensions = len(_shape(node.all_input_nodes[0]))
        return all(int(axis) % dimensions >= 2 for axis in axes)
    return not stream.last or name in ("relu", "leaky_relu", "dropout", "clone", "contiguous")


def _flattens_pixels(node: Node, stream: Stream) -> bool:
    shape = _shape(node.all_input_nodes[0])
    return not stream.last and len(shape) > 2 and all(size == 1 for size in shape[2:])


def _alike(node: Node, inputs: list[Node]) -> bool:
    shapes = [_shape(value) for value in inputs]
    return shapes[0] == shapes[1] == _shape(node)


def _merge(by_node: dict[Node, Stream], one: Node, other: Node) -> Stream:
    a, b = by_node[one], by_node[other]
    if a is b:
        return a
    a.makers += b.makers
    a.users += b.users
    a.points += b.points
    a.frozen = a.frozen or b.frozen or a.channels != b.channels or a.last != b.last
    for node, stream in list(by_node.items()):
        if stream is b:
            by_node[node] = a
    return a


def _freeze(stream: Stream | None) -> None:
    if stream is not None:
        stream.frozen = True


def _new_stream(simulation: Simulation, node: Node) -> Stream | None:
    """A new stream if the layer has its own weights for each channel of its output."""
    name, weight = operator_name(node), _weight(simulation, node)
    if weight is None or (_has_bias(node) and _bias(simulation, node) is None):
        return None  # a bias that another layer has too would stay as it is
    if name in CONVOLUTION:
        return Stream(len(weight), last=False, makers=[node])
    if name == "linear":
        return Stream(len(weight), last=len(_shape(node)) > 2, makers=[node])
    if (
        name in ("layer_norm", "batch_norm")
        and weight.dim() == 1
        and _bias(simulation, node) is not None
    ):
        return Stream(len(weight), last=name == "layer_norm", makers=[node])
    return None


def _uses(simulation: Simulation, node: Node, stream: Stream) -> bool:
    """Whether the node has its own weights for each channel of the stream."""
    name, weight = operator_name(node), _weight(simulation, node)
    if weight is None:
        return False
    if name in CONVOLUTION:
        return not stream.last and weight.shape[1] * groups_of(node) == stream.channels
    one_row = len(_shape(node)) <= 2
    return name == "linear" and weight.shape[1] == stream.channels and (stream.last or one_row)


def _weight(simulation: Simulation, node: Node) -> torch.Tensor | None:
    at = {"layer_norm": 2}.get(operator_name(node), 1)
    return _argument(simulation, node, at, "weight")


def _bias(simulation: Simulation, node: Node) -> torch.Tensor | None:
    at = {"layer_norm": 3}.get(operator_name(node), 2)
    return _argument(simulation, node, at, "bias")


def _has_bias(node: Node) -> bool:
    at = {"layer_norm": 3}.get(operator_name(node), 2)
    return (node.args[at] if len(node.args) > at else node.kwargs.get("bias")) is not None


def _argument(simulation: Simulation, node: Node, at: int, name: str) -> torch.Tensor | None:
    value = node.args[at] if len(node.args) > at else node.kwargs.get(name)
    while isinstance(value, Node) and value.op == "call_module" and value.name in simulation.points:
        value = value.all_input_nodes[0]
    if not isinstance(value, Node) or value.op != "get_attr":
        return None
    used = [user for user in value.users if user.op != "call_module"]
    used += [far for user in value.users if user.op == "call_module" for far in user.users]
    return tensor_at(simulation.graph, value) if len(used) == 1 else None


def _by_input(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """A view of a weight (O, C / groups, ...) as (groups, O / groups, C / groups, rest)."""
    return weight.view(groups, len(weight) // groups, weight.shape[1], -1)


def _factors(
    simulation: Simulation, stream: Stream, seen: dict[str, ObservedValues], share: float
) -> torch.Tensor | None:
    """The divisor of each channel; None if nothing can be gained."""
    reach = [_reach(seen[name], stream) for name in stream.points if name in seen]
    known = [
        reached for reached in reach if reached is not None and len(reached) == stream.channels
    ]
    if not known:
        return None
    activation = torch.stack(known).amax(0)
    if not float(activation.max()):
        return None
    activation = activation.clamp(min=float(activation.max()) * NARROWEST)
    reading = [
        weight for node in stream.users if (weight := _by_channel(simulation, node)) is not None
    ]
    if not reading:
        return activation / activation.max()
    weight = torch.stack(reading).amax(0)
    weight = weight.clamp(min=max(float(weight.max()) * NARROWEST, 1e-30))
    factors = activation**share / weight ** (1 - share)
    return (factors / factors.max()).clamp(min=NARROWEST)


def _reach(seen: ObservedValues, stream: Stream) -> torch.Tensor | None:
    return seen.last if stream.last else seen.second


def _by_channel(simulation: Simulation, node: Node) -> torch.Tensor | None:
    """The largest weight for each channel read; None for depthwise, which any factor suits."""
    weight = _weight(simulation, node)
    assert weight is not None
    groups = groups_of(node)
    parts = _by_input(weight.detach(), groups)
    if parts.shape[2] == 1 and groups > 1:
        return None
    return parts.abs().amax((1, 3)).reshape(-1)


def _scale_maker(simulation: Simulation, node: Node, factors: torch.Tensor) -> None:
    with torch.no_grad():
        for tensor in _own_tensors(simulation, node):
            tensor.mul_(factors.reshape([-1] + [1] * (tensor.dim() - 1)))


def _own_tensors(simulation: Simulation, node: Node) -> Iterator[torch.Tensor]:
    for tensor in (_weight(simulation, node), _bias(simulation, node)):
        if tensor is not None:
            yield tensor


def _scale_user(simulation: Simulation, node: Node, factors: torch.Tensor) -> None:
    weight = _weight(simulation, node)
    assert weight is not None
    groups = groups_of(node)
    with torch.no_grad():
        parts = _by_input(weight, groups)
        parts.mul_(factors.reshape(groups, 1, -1, 1))
