"""Repairs for a runtime that quantizes after conversion: nothing in torch computes what its file
will, so each plan is built and its artifact run.
"""

from __future__ import annotations

from collections.abc import Callable

from edgekit.compress.divergence import compare_outputs
from edgekit.errors import RecipeError, RuntimeFailure
from edgekit.pipeline.model.batched import Batched
from edgekit.pipeline.model.context import BuildContext
from edgekit.pipeline.model.predict import run_all, run_serving
from edgekit.pipeline.model.subject import Subject
from edgekit.pipeline.precision.lower import lower
from edgekit.plan import Plan
from edgekit.progress import Progress
from edgekit.runner.client import Serving
from edgekit.runner.staging import staged
from edgekit.runtimes.base import Repair
from edgekit.search.repairs import LEAST_GAIN, split
from edgekit.search.work_limit import BUILDS, BuildLimit
from edgekit.values import Effort

# Likeliest first. Each is added to the best plan so far.
TRIALS: tuple[dict[Repair, object], ...] = (
    {"observer": "mse"},
    {"equalize": 0.5},
    {"correct": True},
    {"observer": "percentile"},
)


def best_built(
    subject: Subject, context: BuildContext, plain: Plan, effort: Effort, build_s: float
) -> Plan:
    """The plan whose artifact is nearest to the float model on the held-out calibration inputs;
    ``plain`` if no repair gains enough. ``build_s``: the build time of ``plain``, in seconds.
    """
    able = [changes for changes in TRIALS if changes.keys() <= context.runtime.repairs]
    count = min(len(able), BUILDS[effort].most)
    context.progress.note(
        f"repairing int8 builds up to {count} more artifacts, about {build_s:.0f} s each"
    )
    judged = split(subject.calibration).judged
    floats = run_all(Batched(subject.model), judged)

    def divergence(plan: Plan) -> float:
        artifact = lower(subject, context, plan).artifact
        with staged(artifact, context.host_files) as here, Serving(here) as serving:
            outputs = run_all(run_serving(serving), judged)
        return compare_outputs(subject.fidelity, outputs, floats).divergence

    return best_of(plain, able, divergence, BUILDS[effort], context.progress)


def best_of(
    plain: Plan,
    trials: list[dict[Repair, object]],
    divergence: Callable[[Plan], float],
    limit: BuildLimit,
    progress: Progress,
) -> Plan:
    """The best plan of those that the limit allows. One that cannot be built has no gain."""
    best, least, in_vain = plain, divergence(plain), 0
    for changes in trials[: limit.most]:
        if in_vain == limit.in_vain:
            progress.note(f"{in_vain} repairs in a row do not help: the others are not built")
            break
        plan = best.replaced(**changes)
        try:
            found = divergence(plan)
        except (RuntimeFailure, RecipeError) as error:
            progress.note(f"{', '.join(plan.repairs.values())}: {error.message}")
            found = least
        in_vain += 1
        if found < least * (1 - LEAST_GAIN):
            best, least, in_vain = plan, found, 0
    return best
