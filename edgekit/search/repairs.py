"""Which repairs a model needs: cheapest first, each kept only where it brings int8 nearer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgekit.compress.divergence import compared
from edgekit.compress.quantization.simulate import Outputs, Simulation, everywhere, nowhere
from edgekit.fidelity.comparison import Fidelity
from edgekit.plan import Plan
from edgekit.progress import Progress
from edgekit.recipe.calibration_file import hold_out, spread_over
from edgekit.recipe.tensors import Inputs
from edgekit.search.work import CORRECTING, WATCHING, Allowance, values_of

Simulate = Callable[[Plan], Simulation]
# Of the inputs that may be fitted to, and of those that judge, at most so many are used.
MAX_FITTED, MAX_JUDGED = 80, 20
# A step that brings less is not worth being explained.
LEAST_GAIN = 0.02
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
    data: Split,
    floats: Sequence[Outputs],
    fidelity: Fidelity,
    work: float,
    progress: Progress,
) -> Found:
    """The best plan with the same layers in int8. ``simulate`` does what a plan says; ``floats``
    are the float model's outputs for the inputs that judge. ``work``: how much may be done
    (search/work.py).

    Ranges depend on whether channels were equalized, and what is left to correct on both: so the
    best few of one step go on to the next, and the plan is the best of all that were tried. What
    the work does not allow is not tried; a step without gain is the last.
    """
    found: dict[str, tuple[float, Plan]] = {}
    values = values_of(simulate(plain))

    def measure(plan: Plan) -> float:
        key = plan.model_dump_json()
        if key not in found:
            simulation = simulate(plan)
            with simulation.rounding(everywhere):
                outputs = simulation.run(data.judged)
            found[key] = compared(fidelity, outputs, floats).divergence, plan
        return found[key][0]

    before = best = measure(plain)
    going_on, allowance = [plain], Allowance(0.0)
    for step in STEPS:
        allowance.left += step.share * work
        each = values * (step.passes * len(data.fitted) + len(data.judged))
        starts = going_on[: step.going]
        plans = [plan.replaced(**do) for plan in starts for do in step.changes]
        tried = [plan for plan in plans if allowance.take(each)]
        with progress.stage(f"trying {step.title}") as stage:
            for done, plan in enumerate(tried, 1):
                measure(plan)
                stage.advance(done, len(tried))
        going_on = sorted([*going_on, *tried], key=measure)
        if step.must_gain and measure(going_on[0]) > best * (1 - LEAST_GAIN):
            break
        best = measure(going_on[0])
    best, plan = min(found.values(), key=lambda pair: pair[0])
    if best > before * (1 - LEAST_GAIN):
        return Found(plain, before, before)
    return Found(plan, before, best)


@dataclass(frozen=True)
class Step:
    """``going``: to how many of the best so far; ``changes``: its alternatives, likeliest first.
    ``passes``: inferences of each input that a try takes. ``share``: of all the work.
    """

    title: str
    going: int
    changes: tuple[dict[str, object], ...]
    passes: int
    share: float
    must_gain: bool = False


STEPS = (
    Step(
        "ranges and equalization",
        1,
        tuple(
            {"observer": observer, "equalize": share}
            for observer in ("mse_after_activation", "percentile")
            for share in (SHARES[0], None, *SHARES[1:])
        ),
        WATCHING,
        0.35,
    ),
    Step("gain and bias correction", 2, ({"correct": True},), CORRECTING, 0.4, must_gain=True),
    Step("learned rounding", 1, ({"round": True},), CORRECTING, 0.25),
)


def float_outputs(simulation: Simulation, data: Sequence[Inputs]) -> list[Outputs]:
    with simulation.rounding(nowhere):
        return simulation.run(data)
