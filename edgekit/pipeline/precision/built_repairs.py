"""Repairs for a runtime that quantizes after conversion: nothing in torch computes what its file
will, so each plan is built and its artifact run.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgekit.compress.divergence import compare_outputs
from edgekit.errors import RecipeError, RuntimeFailure
from edgekit.pipeline.model.batched import Batched
from edgekit.pipeline.model.context import BuildContext
from edgekit.pipeline.model.predict import run_all, run_serving
from edgekit.pipeline.model.subject import Subject
from edgekit.pipeline.precision.lower import lower
from edgekit.plan import Plan
from edgekit.runner.client import Serving
from edgekit.runner.staging import staged
from edgekit.runtimes.base import Repair
from edgekit.search.repairs import LEAST_GAIN, split

# In turn: each starts from the best plan so far, and the best of its changes is kept.
STEPS: tuple[tuple[dict[Repair, object], ...], ...] = (
    ({"observer": "mse"}, {"observer": "percentile"}),
    ({"equalize": 0.5},),
    ({"correct": True},),
)


def best_built(subject: Subject, context: BuildContext, plain: Plan) -> Plan:
    """The plan whose artifact is nearest to the float model on the held-out calibration inputs;
    ``plain`` if no repair gains enough. A plan that cannot be built is left out.
    """
    trials = sum(len(changes) for changes in _steps(context))
    context.progress.note(f"repairing int8 builds {trials} more artifacts at most")
    judged = split(subject.calibration).judged
    floats = run_all(Batched(subject.model), judged)

    def divergence(plan: Plan) -> float:
        artifact = lower(subject, context, plan).artifact
        with staged(artifact, context.host_files) as here, Serving(here) as serving:
            outputs = run_all(run_serving(serving), judged)
        return compare_outputs(subject.fidelity, outputs, floats).divergence

    best, least = plain, divergence(plain)
    for plans in _steps(context):
        for plan in [best.replaced(**changes) for changes in plans]:
            try:
                found = divergence(plan)
            except (RuntimeFailure, RecipeError) as error:
                context.progress.note(f"{', '.join(plan.repairs.values())}: {error.message}")
                continue
            if found < least * (1 - LEAST_GAIN):
                best, least = plan, found
    return best


def _steps(context: BuildContext) -> Iterator[list[dict[Repair, object]]]:
    for step in STEPS:
        able = [changes for changes in step if changes.keys() <= context.runtime.repairs]
        if able:
            yield able
