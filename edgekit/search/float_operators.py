"""Which operators without weights to keep float: they cost no bytes, so they are tried first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.compress.divergence import compared
from edgekit.compress.graph import within
from edgekit.compress.quantization.observe import watch
from edgekit.compress.quantization.simulate import Outputs, Simulation, everywhere
from edgekit.compress.quantization.tails import LIGHT, tail, unlike_joins
from edgekit.fidelity.comparison import Fidelity
from edgekit.plan import Plan
from edgekit.progress import Progress
from edgekit.recipe.tensors import Inputs
from edgekit.search.repairs import Simulate

# Points that may be lost with operators that are enough.
ENOUGH_LOSS = 1.0
# Of what plain int8 loses: what leaves more is not worth being kept float.
WORTH_SHARE = 0.5
WATCHED = 16


@dataclass(frozen=True)
class FloatOperators:
    """Operators to keep float, and what int8 loses beside them on inputs kept apart, in points and
    as divergence. ``before``: the divergence of plain int8.
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
    """The fewest that are enough, else those that leave the least; none where none are offered."""

    def measured(layers: tuple[str, ...]) -> FloatOperators:
        simulation = simulate(plain.replaced(float_layers=layers) if layers else plain)
        with simulation.rounding(everywhere):
            found = compared(fidelity, simulation.run(judged), floats)
        return FloatOperators(layers, found.loss, found.divergence, 0.0)

    before = measured(())
    best = before
    choices = offers(simulate(plain), fitted[:WATCHED])
    with progress.stage("trying operators without weights in float") as stage:
        for done, layers in enumerate(choices, 1):
            found = measured(layers)
            stage.advance(done, len(choices))
            if found.divergence < best.divergence:
                best = found
            if found.enough and best is found:
                break
    return FloatOperators(best.layers, best.loss, best.divergence, before.divergence)


def offers(simulation: Simulation, data: Sequence[Inputs]) -> list[tuple[str, ...]]:
    """Sets of operators, fewest and cheapest first: what joins unlike values behind the last
    weights, all that is behind them, what joins unlike values anywhere, and all of these.
    """
    joins = unlike_joins(simulation, watch(simulation, data))
    short, long = tail(simulation), tail(simulation, LIGHT)
    last = tuple(name for name in short if name in joins)
    everything = tuple(dict.fromkeys((*joins, *long)))
    found = dict.fromkeys((last, short, long, joins, everything))
    return [layers for layers in found if layers and _rounds_weights(simulation, layers)]


def _rounds_weights(simulation: Simulation, layers: tuple[str, ...]) -> bool:
    """Whether any weights are integers beside these float operators; else it is no int8."""
    owners = {own for p in simulation.points.values() if p.kind == "weights" for own in p.owners}
    return any(not any(within(own, layer) for layer in layers) for own in owners)
