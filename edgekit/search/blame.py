"""Int8-sensitive layers: which weights or activations lose the accuracy, and what repairs them.

Two measurements on the simulated artifact. Quantizing one part alone ranks the parts. Keeping only
that part float confirms that it is sensitive: beside other sensitive layers the gain may be small,
but it is never zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgekit.compress.divergence import compare_outputs
from edgekit.compress.graph import within
from edgekit.compress.quantization.simulate import Kind, Outputs, Point, Simulation, everywhere
from edgekit.documents.verdict import Blame
from edgekit.fidelity.comparison import Comparison, Fidelity
from edgekit.progress import Stage
from edgekit.recipe.tensors import Inputs
from edgekit.search.work_limit import Allowance, values_of

LOOKED_AT = 12
NAMED = 6
# A fix repairs a layer if at most this share of the layer's own error remains.
REPAIRED = 0.3
# A part is sensitive if keeping it float recovers more than this share of plain int8's loss.
LEAST_SHARE = 0.01


@dataclass(frozen=True)
class Part:
    """The weights or the activations of one layer."""

    layer: str
    kind: Kind


def find_sensitive_layers(
    plain: Simulation,
    fixes: Sequence[tuple[str, Simulation]],
    judged: Sequence[Inputs],
    floats: Sequence[Outputs],
    fidelity: Fidelity,
    work: float,
    stage: Stage,
) -> tuple[Blame, ...]:
    """The sensitive parts, largest loss first. ``fixes``: the model with one repair each, cheapest
    first, all without cost on the target; parts that none of them repairs must stay float.
    ``work``: the allowed work (search/work_limit.py), which limits the number of inputs used.
    """
    parts = sorted({Part(p.layer, p.kind) for p in plain.points.values()}, key=_order)
    runs = len(parts) + LOOKED_AT + NAMED * (len(fixes) + 1)
    pairs = list(zip(judged, floats, strict=True))
    used = Allowance(work).affordable(pairs, runs, values_of(plain))
    measure = _Measure([inputs for inputs, _ in used], [outputs for _, outputs in used], fidelity)
    total = measure(plain, everywhere)
    if total <= 0:  # the outputs show no loss
        return ()
    alone = {}
    for done, part in enumerate(parts, 1):
        alone[part] = measure(plain, _only(part))
        stage.advance(done, runs)
    suspects = sorted(parts, key=lambda part: -alone[part])[:LOOKED_AT]
    recovered = {part: (total - measure(plain, _without(part))) / total for part in suspects}
    # a part is not sensitive if float does not help, whatever it loses alone
    sensitive = [part for part in suspects if recovered[part] > LEAST_SHARE]
    return tuple(
        _row(plain, part, alone[part], recovered[part], measure, fixes)
        for part in sensitive[:NAMED]
    )


def _row(
    plain: Simulation,
    part: Part,
    alone: float,
    recovered: float,
    measure: _Measure,
    fixes: Sequence[tuple[str, Simulation]],
) -> Blame:
    repairing = (name for name, fixed in fixes if measure(fixed, _only(part)) < REPAIRED * alone)
    fix = next(repairing, "float")
    comparison = measure.compared(plain, _only(part))
    return Blame(
        layer=part.layer,
        kind=part.kind,
        drop=None if comparison.agreement is None else 100 - comparison.agreement,
        regained=round(recovered, 4),
        sqnr_db=comparison.sqnr_db,
        fix=fix,
        cost_latency_ms=None if fix == "float" else 0.0,
        cost_size_mb=float_cost_mb(plain, part.layer) if fix == "float" else 0.0,
        applied=False,
    )


def float_cost_mb(simulation: Simulation, layer: str) -> float:
    """The additional size, in MB, of a layer's weights in float32 instead of int8 with scales."""
    extra = 0
    for point in simulation.points.values():
        if point.kind == "weights" and point.layer == layer:
            weight = simulation.weight(point)
            extra += weight.numel() * 3 - (len(weight) * 4 if point.axis is not None else 4)
    return max(0, extra) / 1e6


Wanted = Callable[[Point], bool]


class _Measure:
    """The divergence of a simulation from the float model, rounding at some points only."""

    def __init__(
        self, judged: Sequence[Inputs], floats: Sequence[Outputs], fidelity: Fidelity
    ) -> None:
        self.judged, self.floats, self.fidelity = judged, floats, fidelity

    def __call__(self, simulation: Simulation, wanted: Wanted) -> float:
        return self.compared(simulation, wanted).divergence

    def compared(self, simulation: Simulation, wanted: Wanted) -> Comparison:
        with simulation.rounding(wanted):
            return compare_outputs(self.fidelity, simulation.run(self.judged), self.floats)


def _order(part: Part) -> tuple[str, str]:
    return part.layer, part.kind


def _only(part: Part) -> Wanted:
    return lambda point: (point.layer, point.kind) == (part.layer, part.kind)


def _without(part: Part) -> Wanted:
    return lambda point: (point.layer, point.kind) != (part.layer, part.kind)


def without_layers(layers: frozenset[str]) -> Wanted:
    """All points but those that only these layers need: the roundings if they stay float."""

    def wanted(point: Point) -> bool:
        is_float = [any(within(owner, layer) for layer in layers) for owner in point.owners]
        return not (is_float and all(is_float))

    return wanted
