"""Which layers to keep float: greedily, the most accuracy for the fewest bytes.

A single float layer gains little if its neighbours round again. Therefore blocks (a module with the
layers inside it) are offered beside single layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from edgekit.compress.divergence import compare_outputs
from edgekit.compress.graph import within
from edgekit.compress.quantization.simulate import Outputs, Simulation
from edgekit.fidelity.comparison import Fidelity
from edgekit.progress import Progress, Stage
from edgekit.recipe.tensors import Inputs
from edgekit.search.blame import float_cost_mb, without_layers
from edgekit.search.work_limit import Allowance, values_of

MAX_PURCHASES = 8
OFFERED = 6
LARGEST_BLOCK = 8
# Added to each price, as a share of the model's size: smaller differences do not matter.
FREE_SHARE = 0.01
# No further layer is needed if this share of the initial divergence remains.
NEAR_SHARE = 0.001


@dataclass(frozen=True)
class FloatLayers:
    """The layers to keep float after each purchase, and the divergence then. ``before``: of the
    model without float layers.
    """

    layers: tuple[tuple[str, ...], ...]
    divergences: tuple[float, ...]
    before: float

    def enough(self, share: float, passing: float = 0.0) -> int:
        """The number of purchases that should leave at most ``share`` of the divergence, to which
        the loss is roughly proportional, or at most ``passing``; all of them if none does.
        """
        limit = max(share * self.before, passing)
        near = (count for count, left in enumerate(self.divergences, 1) if left <= limit)
        return next(near, len(self.layers))

    def growing(self, count: int) -> Iterator[tuple[str, ...]]:
        """The layers of the first ``count`` purchases, of twice as many each time, of all."""
        while count < len(self.layers):
            yield self.layers[count - 1]
            count *= 2
        yield self.layers[-1]


def float_layers(
    simulation: Simulation,
    judged: Sequence[Inputs],
    floats: Sequence[Outputs],
    fidelity: Fidelity,
    model_mb: float,
    work: float,
    progress: Progress,
) -> FloatLayers:
    """The purchases in order; they end when no offer brings int8 closer to the float model.

    ``model_mb``: the size of all weights in int8. ``work``: the allowed work
    (search/work_limit.py), which limits the number of inputs used. Half of it compares all offers,
    half chooses among the best.
    """
    offers, values = _offers(simulation), values_of(simulation)
    pairs, half = list(zip(judged, floats, strict=True)), Allowance(work / 2)
    few = half.affordable(pairs, len(offers) + 1, values)
    more = half.affordable(pairs, MAX_PURCHASES * OFFERED + 1, values)
    buying = _Buying(simulation, fidelity, _prices_mb(simulation, offers, model_mb), few, more)
    before = buying.divergence((), more)
    if before <= 0:  # the outputs show no loss
        return FloatLayers((), (), before)
    with progress.stage("finding the layers to keep float") as stage:
        buying.compare(stage)
        layers, divergences = buying.buy(before, stage)
    return FloatLayers(layers, divergences, before)


Pairs = Sequence[tuple[Inputs, Outputs]]


@dataclass
class _Buying:
    """The greedy choice. ``few`` inputs compare all offers, ``more`` judge the best. ``gain``: of
    each offer alone, by ``few``: the decrease in divergence for each MB.
    """

    simulation: Simulation
    fidelity: Fidelity
    price_mb: dict[str, float]
    few: Pairs
    more: Pairs
    gain: dict[str, float] = field(default_factory=dict)

    def divergence(self, layers: Iterable[str], by: Pairs) -> float:
        """The divergence with these layers float."""
        with self.simulation.rounding(without_layers(frozenset(layers))):
            outputs = self.simulation.run([inputs for inputs, _ in by])
        return compare_outputs(self.fidelity, outputs, [wanted for _, wanted in by]).divergence

    def compare(self, stage: Stage) -> None:
        """Try each offer once. Later only the best are tried, because the order rarely changes."""
        alone: dict[str, float] = {}
        for done, name in enumerate(self.price_mb, 1):
            alone[name] = self.divergence([name], self.few)
            stage.advance(done, len(self.price_mb) + MAX_PURCHASES * OFFERED)
        without = self.divergence((), self.few)
        self.gain = {name: (without - alone[name]) / self.price_mb[name] for name in alone}

    def buy(
        self, before: float, stage: Stage
    ) -> tuple[tuple[tuple[str, ...], ...], tuple[float, ...]]:
        current, bought = before, list[str]()
        layers: list[tuple[str, ...]] = []
        divergences: list[float] = []
        while len(layers) < MAX_PURCHASES and current > NEAR_SHARE * before:
            free = [n for n in self.price_mb if not any(within(n, chosen) for chosen in bought)]
            free.sort(key=lambda name: -self.gain[name])
            divergence = {
                name: self.divergence([*bought, name], self.more) for name in free[:OFFERED]
            }
            best = max(
                divergence, key=lambda n: (current - divergence[n]) / self.price_mb[n], default=None
            )
            if best is None or divergence[best] >= current or self._is_all([*bought, best]):
                break
            current = divergence[best]
            bought = [chosen for chosen in bought if not within(chosen, best)] + [best]
            layers.append(tuple(sorted(bought)))
            divergences.append(current)
            stage.show(f"{len(layers)} chosen")
        return tuple(layers), tuple(divergences)

    def _is_all(self, bought: Sequence[str]) -> bool:
        """Whether no layer would be left in int8."""
        points = self.simulation.points.values()
        owners = {owner for point in points for owner in point.owners}
        return all(any(within(owner, own) for own in bought) for owner in owners)


def _prices_mb(
    simulation: Simulation, offers: dict[str, frozenset[str]], model_mb: float
) -> dict[str, float]:
    least_mb = FREE_SHARE * max(model_mb, 1e-6)
    return {
        name: sum(float_cost_mb(simulation, owner) for owner in inside) + least_mb
        for name, inside in offers.items()
    }


def _offers(simulation: Simulation) -> dict[str, frozenset[str]]:
    """Layers in int8, and blocks of them, each with the layers inside."""
    owners = {owner for point in simulation.points.values() for owner in point.owners if owner}
    names = set(owners)
    for owner in owners:
        module, _, operator = owner.partition(":")
        parts = module.split(".") if module else []
        depth = len(parts) + bool(operator)
        names |= {".".join(parts[:count]) for count in range(1, depth)}
    inside_of = {
        name: frozenset(owner for owner in owners if within(owner, name)) for name in sorted(names)
    }
    return {name: inside for name, inside in inside_of.items() if len(inside) <= LARGEST_BLOCK}
