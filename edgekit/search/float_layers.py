"""Which layers to keep float: the most accuracy for the fewest bytes, one after another.

A layer that stays float gives most of its worth back where its neighbours round again; so whole
blocks (a module with the layers inside it) are offered beside single layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from edgekit.compress.divergence import compared
from edgekit.compress.graph import within
from edgekit.compress.quantization.simulate import Outputs, Simulation
from edgekit.fidelity.comparison import Fidelity
from edgekit.progress import Progress, Stage
from edgekit.recipe.tensors import Inputs
from edgekit.search.blame import float_cost_mb, without_layers
from edgekit.search.work import Allowance, values_of

MAX_PURCHASES = 8
OFFERED = 6
LARGEST_BLOCK = 8
# Bytes that are nothing beside the model's: below this share two offers cost alike.
FREE_SHARE = 0.01
# Int8 as near as this, against where it began, needs no further layer.
NEAR_SHARE = 0.001


@dataclass(frozen=True)
class Purchase:
    """Layers to keep float after each purchase, and how far int8 is then."""

    layers: tuple[tuple[str, ...], ...]
    divergences: tuple[float, ...]
    before: float

    def enough(self, share: float, passing: float = 0.0) -> int:
        """How many purchases should leave no more than ``share`` of the divergence: what is lost
        goes with it, roughly. Or no more than ``passing``. All of them where none would.
        """
        limit = max(share * self.before, passing)
        near = (count for count, left in enumerate(self.divergences, 1) if left <= limit)
        return next(near, len(self.layers))


def purchases(
    simulation: Simulation,
    judged: Sequence[Inputs],
    floats: Sequence[Outputs],
    fidelity: Fidelity,
    model_mb: float,
    work: float,
    progress: Progress,
) -> Purchase:
    """What to buy first, second, ...; ends where nothing brings int8 nearer any more.

    ``model_mb``: the size of all weights in int8. ``work``: how much may be done
    (search/work.py), half of it to compare all offers, half to choose among the best: as many of
    the inputs judge as that allows.
    """
    offers, values = _offers(simulation), values_of(simulation)
    pairs, half = list(zip(judged, floats, strict=True)), Allowance(work / 2)
    few = half.some(pairs, len(offers) + 1, values)
    more = half.some(pairs, MAX_PURCHASES * OFFERED + 1, values)
    buying = _Buying(simulation, fidelity, _prices_mb(simulation, offers, model_mb), few, more)
    before = buying.left((), more)
    if before <= 0:  # outputs that tell nothing of what was lost on the way to them
        return Purchase((), (), before)
    with progress.stage("finding the layers to keep float") as stage:
        buying.compare(stage)
        layers, divergences = buying.buy(before, stage)
    return Purchase(layers, divergences, before)


Pairs = Sequence[tuple[Inputs, Outputs]]


@dataclass
class _Buying:
    """``few`` inputs compare all offers, ``more`` judge the best. ``gain``: by ``few``, what an
    offer alone is worth for its price.
    """

    simulation: Simulation
    fidelity: Fidelity
    price_mb: dict[str, float]
    few: Pairs
    more: Pairs
    gain: dict[str, float] = field(default_factory=dict)

    def left(self, layers: Iterable[str], by: Pairs) -> float:
        """The divergence where these stay float."""
        with self.simulation.rounding(without_layers(frozenset(layers))):
            outputs = self.simulation.run([inputs for inputs, _ in by])
        return compared(self.fidelity, outputs, [wanted for _, wanted in by]).divergence

    def compare(self, stage: Stage) -> None:
        """Try each offer once; after that only the best, for most trade places seldom."""
        worth: dict[str, float] = {}
        for done, name in enumerate(self.price_mb, 1):
            worth[name] = self.left([name], self.few)
            stage.advance(done, len(self.price_mb) + MAX_PURCHASES * OFFERED)
        beside = self.left((), self.few)
        self.gain = {name: (beside - worth[name]) / self.price_mb[name] for name in worth}

    def buy(
        self, before: float, stage: Stage
    ) -> tuple[tuple[tuple[str, ...], ...], tuple[float, ...]]:
        now, bought = before, list[str]()
        layers: list[tuple[str, ...]] = []
        divergences: list[float] = []
        while len(layers) < MAX_PURCHASES and now > NEAR_SHARE * before:
            free = [n for n in self.price_mb if not any(within(n, own) for own in bought)]
            free.sort(key=lambda name: -self.gain[name])
            left = {name: self.left([*bought, name], self.more) for name in free[:OFFERED]}
            best = max(left, key=lambda n: (now - left[n]) / self.price_mb[n], default=None)
            if best is None or left[best] >= now or self._is_all([*bought, best]):
                break
            now = left[best]
            bought = [own for own in bought if not within(own, best)] + [best]
            layers.append(tuple(sorted(bought)))
            divergences.append(now)
            stage.tell(f"{len(layers)} chosen")
        return tuple(layers), tuple(divergences)

    def _is_all(self, bought: Sequence[str]) -> bool:
        """Would nothing be left in int8?"""
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
    """Layers that want integers, and blocks of them, each with the layers inside."""
    owners = {owner for point in simulation.points.values() for owner in point.owners if owner}
    names = set(owners)
    for owner in owners:
        module, _, operator = owner.partition(":")
        parts = module.split(".") if module else []
        depth = len(parts) + bool(operator)
        names |= {".".join(parts[:count]) for count in range(1, depth)}
    found = {
        name: frozenset(owner for owner in owners if within(owner, name)) for name in sorted(names)
    }
    return {name: inside for name, inside in found.items() if len(inside) <= LARGEST_BLOCK}
