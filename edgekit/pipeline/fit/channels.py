"""The groups of channels that a program's operators read and write, and shapes without some.

A layer's channels belong to groups by the dependency graph (compress/pruning/channel_groups.py). An
operator without weights has those of the last layer before it with as many channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekit.compress.pruning.channel_groups import Group
from edgekit.cost.shapes import DEPTHWISE, Dims, OperatorShape


@dataclass(frozen=True)
class Share:
    """Of ``channels`` of an operator, ``grouped`` belong to a group."""

    group: str
    grouped: int
    channels: int

    def left(self, kept: float) -> float:
        """The share of the channels that is left if the group keeps ``kept`` of its own."""
        return 1 - self.grouped * (1 - kept) / self.channels


@dataclass(frozen=True)
class Coupled:
    """An operator with the groups of its inputs and outputs; None: its channels stay."""

    shape: OperatorShape
    reads: Share | None
    writes: Share | None

    @property
    def groups(self) -> tuple[str, ...]:
        names = [share.group for share in (self.reads, self.writes) if share is not None]
        return tuple(dict.fromkeys(names))

    def scaled(self, kept: Mapping[str, float], pixels: float = 1.0) -> OperatorShape:
        """The shape if each group keeps a share of its channels, and images of their pixels."""
        read = self.reads.left(kept[self.reads.group]) if self.reads else 1.0
        written = self.writes.left(kept[self.writes.group]) if self.writes else 1.0
        shape = self.shape
        of_work = written if shape.kind == DEPTHWISE or not shape.weight_bytes else read * written
        inputs = tuple(_scaled(dims, self.reads, read, pixels) for dims in shape.inputs)
        outputs = tuple(_scaled(dims, self.writes, written, pixels) for dims in shape.outputs)
        of_activations = (read + written) / 2 * pixels
        return shape.replaced(
            inputs=inputs,
            outputs=outputs,
            weight_bytes=round(shape.weight_bytes * of_work),
            activation_bytes=round(shape.activation_bytes * of_activations),
            macs=round(shape.macs * of_work * pixels),
            groups=max(1, round(shape.groups * written)) if shape.groups > 1 else 1,
        )


def coupled(shapes: Sequence[OperatorShape], groups: Sequence[Group]) -> list[Coupled]:
    """The operators in order of execution, with their groups."""
    ends = {
        (place.layer, place.output): (group.layer, len(place.channels))
        for group in groups
        for place in group.places
    }
    latest: dict[int, Share | None] = {}
    found = []
    for shape in shapes:
        if shape.weight_bytes and shape.macs:
            reads = _share(ends, shape, False, _channels(shape.inputs))
            writes = _share(ends, shape, True, _channels(shape.outputs))
            latest[_channels(shape.outputs)] = writes
        else:
            reads = latest.get(_channels(shape.inputs))
            writes = latest.get(_channels(shape.outputs))
        found.append(Coupled(shape, reads, writes))
    return found


def _share(
    ends: Mapping[tuple[str, bool], tuple[str, int]],
    shape: OperatorShape,
    output: bool,
    channels: int,
) -> Share | None:
    if shape.layer is None or (shape.layer, output) not in ends or not channels:
        return None
    group, grouped = ends[shape.layer, output]
    return Share(group, min(grouped, channels), channels)


def _channels(tensors: Sequence[Dims]) -> int:
    """Channels come last in delegates, and in tokens; else after the batch."""
    dims = tensors[0] if tensors else ()
    return dims[-1] if dims else 0


def _scaled(dims: Dims, share: Share | None, left: float, pixels: float) -> Dims:
    scaled = list(dims)
    if share is not None and dims and dims[-1] == share.channels:
        scaled[-1] = max(1, round(dims[-1] * left))
    if len(dims) == 4 and pixels != 1.0:
        side = pixels**0.5
        scaled[1:3] = [max(1, round(size * side)) for size in dims[1:3]]
    return tuple(scaled)
