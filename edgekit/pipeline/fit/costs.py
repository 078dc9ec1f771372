"""The space of choices with its costs, from the operators of one program and a table of costs.

Memory is linear in the choice: packed weights with the bytes of weights, and at each program point
the values that its operator reads and writes. What else is alive at a point is taken as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.compress.graph import within
from edgekit.cost.ledger import MB
from edgekit.cost.table import CostTable
from edgekit.documents.memory import MemoryLedger
from edgekit.pipeline.fit.channels import Coupled
from edgekit.pipeline.fit.losses import Losses
from edgekit.search.space import Block, Bound, Costs, Part, Space, Widths

LATENCY, WEIGHTS, LIVE = "latency_ms", "weights_mb", "live_mb"
# Program points below this share of the highest do not become the highest.
HIGH_POINT = 0.4


@dataclass(frozen=True)
class Basis:
    """What is known of the program that nothing was removed from.

    ``rest_ms``: the time between operators. ``weights_mb``: the bytes of its weights.
    """

    operators: tuple[Coupled, ...]
    table: CostTable | None
    ledger: MemoryLedger | None
    rest_ms: float

    @property
    def weights_mb(self) -> float:
        return sum(operator.shape.weight_bytes for operator in self.operators) / MB


def space_of(basis: Basis, losses: Losses, size: tuple[int, int] | None, pixels: float) -> Space:
    """All choices at one input size. ``pixels``: the share of the example's."""
    groups = tuple(
        Widths(group, tuple(options), tuple(options.values()))
        for group, options in losses.widths.items()
    )
    counts = {one.group: max(one.widths) for one in groups}
    kept = {one.group: [width / counts[one.group] for width in one.widths] for one in groups}
    live = _live_points(basis)
    parts = [
        _part(basis, operator, kept, pixels, losses.blocks, live.get(place))
        for place, operator in enumerate(basis.operators)
    ]
    blocks = tuple(Block(name, loss) for name, loss in losses.blocks.items())
    return Space(groups, blocks, tuple(parts), {LATENCY: basis.rest_ms}, losses.sizes[size])


def _part(
    basis: Basis,
    operator: Coupled,
    kept: Mapping[str, Sequence[float]],
    pixels: float,
    blocks: Mapping[str, float],
    live: str | None,
) -> Part:
    names = operator.groups
    sizes = [len(kept[name]) for name in names]
    latency, weights, values = (np.zeros(sizes) for _ in range(3))
    for place in np.ndindex(*sizes):
        shares = {name: kept[name][index] for name, index in zip(names, place, strict=True)}
        shape = operator.scaled(shares, pixels)
        weights[place] = shape.weight_bytes / MB
        values[place] = shape.activation_bytes / MB
        if basis.table is not None:
            latency[place] = basis.table.operator(shape).latency_ms
    costs: dict[str, Costs] = {WEIGHTS: weights}
    if basis.table is not None:
        costs[LATENCY] = latency
    if live is not None:
        costs[live] = values
    return Part(names, _block_of(operator.shape.layer, blocks), costs)


def _block_of(layer: str | None, blocks: Mapping[str, float]) -> str | None:
    """The outermost block that contains the layer."""
    inside = [name for name in blocks if layer and within(layer, name)]
    return min(inside, key=len, default=None)


def _live_points(basis: Basis) -> dict[int, str]:
    """The operators at which the most memory may be alive, with the resource of each."""
    sizes = {
        place: operator.shape.activation_bytes
        for place, operator in enumerate(basis.operators)
        if operator.shape.delegated
    }
    highest = max(sizes.values(), default=0)
    return {p: f"{LIVE}_{p}" for p, size in sizes.items() if size >= HIGH_POINT * highest > 0}


def memory_bounds(
    basis: Basis, space: Space, pixels: float, limit_mb: float, measured_mb: float
) -> tuple[Bound, ...]:
    """Bounds that keep the peak within ``limit_mb``: at loading, and at each high program point.

    ``measured_mb``: the peak of the program that nothing was removed from.
    """
    if basis.ledger is None:
        return ()
    parts = {part.name: part for part in basis.ledger.parts}
    packed, stored = parts["packed weights"], parts["weights as stored"]
    of_size = sum(
        parts[name].run_mb for name in ("kernel tables", "planned arena", "input buffers")
    )
    live_mb = parts["live activations"].run_mb
    whole_mb = max(basis.weights_mb, 1e-9)
    shift_mb = measured_mb - basis.ledger.peak_mb
    load_mb = basis.ledger.load_mb - packed.load_mb - stored.load_mb + shift_mb
    run_mb = basis.ledger.run_mb - packed.run_mb - of_size - live_mb + shift_mb
    points = [name for name in space.resources if name.startswith(LIVE)]
    highest_mb = max((space.cost(name, space.whole) for name in points), default=0.0)
    run_mb += of_size * pixels + max(0.0, live_mb * pixels - highest_mb)
    at_load = Bound({WEIGHTS: (packed.load_mb + stored.load_mb) / whole_mb}, limit_mb - load_mb)
    at_run = [
        Bound({WEIGHTS: packed.run_mb / whole_mb, name: 1.0}, limit_mb - run_mb) for name in points
    ]
    return (at_load, *at_run)
