"""Which operators without weights to keep float: they cost no bytes, so they are tried first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.compress.divergence import compare_outputs
from edgekit.compress.graph import within
from edgekit.compress.quantization.observe import observe
from edgekit.compress.quantization.simulate import Outputs, Simulation, everywhere
from edgekit.compress.quantization.tails import LIGHT, tail, unlike_joins
from edgekit.fidelity.comparison import Fidelity
from edgekit.plan import Plan
from edgekit.progress import Progress
from edgekit.recipe.tensors import Inputs
from edgekit.search.repairs import Simulate

# Float operators are enough if the loss is at most so many points.
ENOUGH_LOSS = 1.0
# Float operators are worth it if they leave at most this share of plain int8's divergence.
WORTH_SHARE = 0.5
WATCHED = 16


@dataclass(frozen=True)
class FloatOperators:
    """Operators to keep float. ``loss`` (points) and ``divergence``: of int8 with them, on held-out
    inputs. ``before``: the divergence of plain int8.
    """

    layers: tuple[str, ...]
    loss: float
    divergence: float
    before: float

    @property
    def enough(self) -> bool:
        return self.loss <= ENOUGH_LOSS

    @property
    def worth(self) -> bool:
        return bool(self.layers) and self.divergence <= WORTH_SHARE * self.before


def float_operators(
    plain: Plan,
    simulate: Simulate,
    fitted: Sequence[Inputs],
    judged: Sequence[Inputs],
    floats: Sequence[Outputs],
    fidelity: Fidelity,
    progress: Progress,
) -> FloatOperators:
    """The smallest set that is enough, else the one with the least divergence; may be empty."""

    def measure(layers: tuple[str, ...]) -> FloatOperators:
        both = (*plain.float_layers, *layers)
        simulation = simulate(plain.replaced(float_layers=both) if layers else plain)
        with simulation.rounding(everywhere):
            comparison = compare_outputs(fidelity, simulation.run(judged), floats)
        return FloatOperators(layers, comparison.loss, comparison.divergence, 0.0)

    before = measure(())
    best = before
    choices = offers(simulate(plain), fitted[:WATCHED])
    with progress.stage("trying operators without weights in float") as stage:
        for done, layers in enumerate(choices, 1):
            candidate = measure(layers)
            stage.advance(done, len(choices))
            if candidate.divergence < best.divergence:
                best = candidate
            if candidate.enough and best is candidate:
                break
    return FloatOperators(best.layers, best.loss, best.divergence, before.divergence)


def offers(simulation: Simulation, data: Sequence[Inputs]) -> list[tuple[str, ...]]:
    """Sets of operators, smallest and cheapest first: joins of unlike values behind the last
    weights, all operators behind them, joins of unlike values anywhere, and all of these.
    """
    joins = unlike_joins(simulation, observe(simulation, data))
    short, long = tail(simulation), tail(simulation, LIGHT)
    last = tuple(name for name in short if name in joins)
    everything = tuple(dict.fromkeys((*joins, *long)))
    unique = dict.fromkeys((last, short, long, joins, everything))
    return [layers for layers in unique if layers and _rounds_weights(simulation, layers)]


def _rounds_weights(simulation: Simulation, layers: tuple[str, ...]) -> bool:
    """Whether any weights are still int8 with these operators float."""
    points = [point for point in simulation.points.values() if point.kind == "weights"]
    owners = {owner for point in points for owner in point.owners}
    return any(not any(within(owner, layer) for layer in layers) for owner in owners)
