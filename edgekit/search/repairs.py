"""Which repairs a model needs: cheapest first, each kept only where it brings int8 nearer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edgekit.calibration import hold_out, spread_over
from edgekit.compress.divergence import compared
from edgekit.compress.simulate import Outputs, Simulation, everywhere, nowhere
from edgekit.measurement.fidelity import Fidelity
from edgekit.plan import Plan
from edgekit.progress import Progress
from edgekit.recipe import Inputs

Simulate = Callable[[Plan], Simulation]
# Of the inputs that may be fitted to, and of those that judge, at most so many are used.
MAX_FITTED, MAX_JUDGED = 80, 20
# A step that brings less is not worth being explained.
LEAST_GAIN = 0.02
LEAST_INPUTS, VALUES = 24, 100_000_000
SHARES = (0.5, 1.0)


@dataclass(frozen=True)
class Found:
    """``plain`` and ``divergence``: of plain int8 and of ``plan``, on inputs kept apart."""

    plan: Plan
    plain: float
    divergence: float


@dataclass(frozen=True)
class Split:
    """Calibration inputs: what repairs are fitted to, and what they are judged by."""

    fitted: Sequence[Inputs]
    judged: Sequence[Inputs]


def split(calibration: Sequence[Inputs]) -> Split:
    """Some of either, evenly spread (calibration.hold_out)."""
    fitted, judged = hold_out(calibration)
    return Split(spread_over(fitted, MAX_FITTED), spread_over(judged, MAX_JUDGED))


def find_repairs(
    plain: Plan,
    simulate: Simulate,
    judged: Sequence[Inputs],
    floats: Sequence[Outputs],
    fidelity: Fidelity,
    progress: Progress,
) -> Found:
    """The best plan with the same layers in int8. ``simulate`` does what a plan says; ``judged``
    are inputs that it was not fitted to, ``floats`` the float model's outputs for them.

    Ranges depend on whether channels were equalized, and what is left to correct on both: so the
    best few of one step go on to the next, and the plan is the best of all that were tried.
    """
    found: dict[str, tuple[float, Plan]] = {}

    def measure(plan: Plan) -> float:
        key = plan.model_dump_json()
        if key not in found:
            simulation = simulate(plan)
            with simulation.rounding(everywhere):
                outputs = simulation.run(judged)
            found[key] = compared(fidelity, outputs, floats).divergence, plan
        return found[key][0]

    before = measure(plain)
    going_on = [plain]
    for title, going, changes in _steps():
        tried = [plan.model_copy(update=change) for plan in going_on[:going] for change in changes]
        with progress.stage(f"trying {title}") as stage:
            for done, plan in enumerate(tried, 1):
                measure(plan)
                stage.advance(done, len(tried))
        going_on = sorted([*going_on, *tried], key=measure)
    best = min(found.values(), key=lambda pair: pair[0])
    if best[0] > before * (1 - LEAST_GAIN):
        return Found(plain, before, before)
    return Found(best[1], before, best[0])


def _steps() -> Iterator[tuple[str, int, list[dict[str, object]]]]:
    """Cheapest first: to how many of the best so far, and its alternatives."""
    yield (
        "ranges and equalization",
        1,
        [
            {"observer": observer, "equalize": share}
            for observer in ("percentile", "mse_after_activation")
            for share in (None, *SHARES)
        ],
    )
    yield "gain and bias correction", 2, [{"correct": True}]
    yield "learned rounding", 1, [{"round": True}]


def affordable(simulation: Simulation, data: Sequence[Inputs]) -> list[Inputs]:
    """As many inputs as some hundred runs may have: fewer of a large model."""
    values = sum(math.prod(_shape(simulation, name)) for name in simulation.points)
    count = min(len(data), max(LEAST_INPUTS, VALUES // max(1, values)))
    return [data[int(index * len(data) / count)] for index in range(count)]


def _shape(simulation: Simulation, name: str) -> list[int]:
    value = simulation.node(name).all_input_nodes[0].meta.get("val")
    return list(getattr(value, "shape", [0]))


def float_outputs(simulation: Simulation, data: Sequence[Inputs]) -> list[Outputs]:
    with simulation.rounding(nowhere):
        return simulation.run(data)
