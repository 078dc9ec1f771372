"""Which layers lose the accuracy of plain int8, in weights or activations, and what mends each.

Two measurements by the simulated artifact: quantizing one part alone ranks them cleanly, and
un-quantizing it where all others are int8 is the check that it is guilty: beside several wrong
layers, mending one alone may show little, but never nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgekit.compress.divergence import compared
from edgekit.compress.graph import within
from edgekit.compress.quantization.simulate import Kind, Outputs, Point, Simulation, everywhere
from edgekit.documents.verdict import Blame
from edgekit.fidelity.comparison import Comparison, Fidelity
from edgekit.progress import Stage
from edgekit.recipe.tensors import Inputs
from edgekit.search.work import Allowance, values_of

LOOKED_AT = 12
NAMED = 6
# A fix mends a layer when this little of its own error is left.
MENDED = 0.3
# Of what plain int8 loses, less than this is nobody's guilt.
LEAST_SHARE = 0.01


@dataclass(frozen=True)
class Part:
    """The weights or the activations of one layer."""

    layer: str
    kind: Kind


def blame(
    plain: Simulation,
    fixes: Sequence[tuple[str, Simulation]],
    judged: Sequence[Inputs],
    floats: Sequence[Outputs],
    fidelity: Fidelity,
    work: float,
    stage: Stage,
) -> tuple[Blame, ...]:
    """The guilty parts, most guilty first. ``fixes``: the model mended in one way each, cheapest
    first, all without cost on the target; what none of them mends must stay float. ``work``: how
    much may be done (search/work.py); as many of the inputs judge as that allows.
    """
    parts = sorted({Part(p.layer, p.kind) for p in plain.points.values()}, key=_order)
    runs = len(parts) + LOOKED_AT + NAMED * (len(fixes) + 1)
    pairs = list(zip(judged, floats, strict=True))
    used = Allowance(work).some(pairs, runs, values_of(plain))
    measure = _Measure([inputs for inputs, _ in used], [outputs for _, outputs in used], fidelity)
    total = measure(plain, everywhere)
    if total <= 0:  # outputs that tell nothing of what was lost on the way to them
        return ()
    alone = {}
    for done, part in enumerate(parts, 1):
        alone[part] = measure(plain, _only(part))
        stage.advance(done, runs)
    suspects = sorted(parts, key=lambda part: -alone[part])[:LOOKED_AT]
    regained = {part: (total - measure(plain, _without(part))) / total for part in suspects}
    # what is no better when it stays float is not guilty, whatever it does alone
    guilty = [part for part in suspects if regained[part] > LEAST_SHARE]
    return tuple(
        _row(plain, part, alone[part], regained[part], measure, fixes) for part in guilty[:NAMED]
    )


def _row(
    plain: Simulation,
    part: Part,
    alone: float,
    regained: float,
    measure: _Measure,
    fixes: Sequence[tuple[str, Simulation]],
) -> Blame:
    mended = (name for name, fixed in fixes if measure(fixed, _only(part)) < MENDED * alone)
    fix = next(mended, "float")
    found = measure.compared(plain, _only(part))
    return Blame(
        layer=part.layer,
        kind=part.kind,
        drop=None if found.agreement is None else 100 - found.agreement,
        regained=round(regained, 4),
        sqnr_db=found.sqnr_db,
        fix=fix,
        cost_latency_ms=None if fix == "float" else 0.0,
        cost_size_mb=float_cost_mb(plain, part.layer) if fix == "float" else 0.0,
        applied=False,
    )


def float_cost_mb(simulation: Simulation, layer: str) -> float:
    """What a layer's weights take more in float32 than in int8 with their scales, in MB."""
    extra = 0
    for point in simulation.points.values():
        if point.kind == "weights" and point.layer == layer:
            weight = simulation.weight(point)
            extra += weight.numel() * 3 - (len(weight) * 4 if point.axis is not None else 4)
    return max(0, extra) / 1e6


Wanted = Callable[[Point], bool]


class _Measure:
    """How far a simulation is from the float model, rounding at some points only."""

    def __init__(
        self, judged: Sequence[Inputs], floats: Sequence[Outputs], fidelity: Fidelity
    ) -> None:
        self.judged, self.floats, self.fidelity = judged, floats, fidelity

    def __call__(self, simulation: Simulation, wanted: Wanted) -> float:
        return self.compared(simulation, wanted).divergence

    def compared(self, simulation: Simulation, wanted: Wanted) -> Comparison:
        with simulation.rounding(wanted):
            return compared(self.fidelity, simulation.run(self.judged), self.floats)


def _order(part: Part) -> tuple[str, str]:
    return part.layer, part.kind


def _only(part: Part) -> Wanted:
    return lambda point: (point.layer, point.kind) == (part.layer, part.kind)


def _without(part: Part) -> Wanted:
    return lambda point: (point.layer, point.kind) != (part.layer, part.kind)


def without_layers(layers: frozenset[str]) -> Wanted:
    """Everywhere but where only these layers want integers: what keeping them float leaves."""

    def wanted(point: Point) -> bool:
        kept = [any(within(owner, layer) for layer in layers) for owner in point.owners]
        return not (kept and all(kept))

    return wanted
