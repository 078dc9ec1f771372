"""Which repairs a model needs: cheapest first, and only those that bring int8 closer to float."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgekit.compress.divergence import compare_outputs
from edgekit.compress.quantization.simulate import Outputs, Simulation, everywhere, nowhere
from edgekit.fidelity.comparison import Fidelity
from edgekit.plan import Plan
from edgekit.progress import Progress
from edgekit.recipe.calibration_file import hold_out, spread_over
from edgekit.recipe.tensors import Inputs
from edgekit.search.work_limit import CORRECTING, WATCHING, Allowance, values_of

Simulate = Callable[[Plan], Simulation]
# At most so many inputs are fitted to, and so many judge.
MAX_FITTED, MAX_JUDGED = 80, 20
# Steps with a smaller relative gain are dropped.
LEAST_GAIN = 0.02
SHARES = (0.5, 1.0)


@dataclass(frozen=True)
class RepairSearchResult:
    """The best plan. ``plain`` and ``divergence``: the divergence of plain int8 and of ``plan``, on
    held-out inputs.
    """

    plan: Plan
    plain: float
    divergence: float


@dataclass(frozen=True)
class Split:
    """Calibration inputs that repairs are fitted to, and those that judge them."""

    fitted: Sequence[Inputs]
    judged: Sequence[Inputs]


def split(calibration: Sequence[Inputs]) -> Split:
    """Split calibration inputs (``hold_out``); of either part some are used, evenly spread."""
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
) -> RepairSearchResult:
    """The best plan with the same layers in int8. ``simulate`` applies a plan; ``floats`` are the
    float model's outputs for the judging inputs. ``work``: the allowed work (search/work_limit.py).

    A beam search: ranges depend on equalization, and corrections on both, so the best few plans of
    one step enter the next. The result is the best plan tried. Plans beyond the allowed work are
    not tried; a step without gain ends the search.
    """
    measured: dict[str, tuple[float, Plan]] = {}
    values = values_of(simulate(plain))

    def measure(plan: Plan) -> float:
        key = plan.model_dump_json()
        if key not in measured:
            simulation = simulate(plan)
            with simulation.rounding(everywhere):
                outputs = simulation.run(data.judged)
            measured[key] = compare_outputs(fidelity, outputs, floats).divergence, plan
        return measured[key][0]

    before = best = measure(plain)
    going_on, allowance = [plain], Allowance(0.0)
    for step in STEPS:
        allowance.remaining += step.share * work
        each = values * (step.passes * len(data.fitted) + len(data.judged))
        starts = going_on[: step.beam]
        plans = [plan.replaced(**do) for plan in starts for do in step.changes]
        allowed = [plan for plan in plans if allowance.spend(each)]
        with progress.stage(f"trying {step.title}") as stage:
            for done, plan in enumerate(allowed, 1):
                measure(plan)
                stage.advance(done, len(allowed))
        going_on = sorted([*going_on, *allowed], key=measure)
        if step.must_gain and measure(going_on[0]) > best * (1 - LEAST_GAIN):
            break
        best = measure(going_on[0])
    best, plan = min(measured.values(), key=lambda pair: pair[0])
    if best > before * (1 - LEAST_GAIN):
        return RepairSearchResult(plain, before, before)
    return RepairSearchResult(plan, before, best)


@dataclass(frozen=True)
class Step:
    """A step of the search. ``beam``: the number of best plans that it starts from. ``changes``:
    alternatives, likeliest first. ``passes``: inferences of each input that one trial takes.
    ``share``: of all the work.
    """

    title: str
    beam: int
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
