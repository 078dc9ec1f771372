"""Judge with all calibration inputs if only a few are held out.

Of twenty calibration inputs, four judge an artifact. That is too few: models that pass on them miss
the limit on fresh inputs (docs/benchmarks.md). So the inputs are split into fifths. Each fifth
judges a simulation that is fitted to the other four: cross-validation (M. Stone, "Cross-Validatory
Choice and Assessment of Statistical Predictions", J. R. Stat. Soc. B 36, 1974).
"""

from __future__ import annotations

from dataclasses import replace

from edgekit.compress.divergence import compare_outputs
from edgekit.compress.quantization.headroom import FEW
from edgekit.compress.quantization.simulate import Outputs, everywhere
from edgekit.fidelity.comparison import Comparison
from edgekit.pipeline.model.batched import Batched
from edgekit.pipeline.model.context import BuildContext
from edgekit.pipeline.model.predict import run_all
from edgekit.pipeline.model.subject import Subject
from edgekit.pipeline.precision.parity import Judgement, worst_db
from edgekit.pipeline.precision.quantize import Simulator
from edgekit.plan import Plan
from edgekit.recipe.calibration_file import HELD_OUT_EVERY, MIN_TO_HOLD_OUT, hold_out
from edgekit.recipe.tensors import Inputs


def cross_checked(
    subject: Subject, context: BuildContext, plan: Plan, judged: Judgement
) -> Judgement:
    """``judged``, with the cross-check's loss if that is greater.

    Unchanged if enough inputs are held out, or if a simulation cannot be fitted again: training,
    states, a runtime without PT2E. Classes are judged by the held-out inputs only: one changed
    winner of twenty is five points.
    """
    few = len(subject.calibration) >= MIN_TO_HOLD_OUT and len(subject.fitted) < FEW
    fixed = plan.train is not None or bool(subject.states) or context.runtime.pt2e is None
    if not few or fixed or "classes" in subject.fidelity_without_states.kinds:
        return judged
    found = cross_check(subject, context, plan)
    groups = [one.worst_group for one in found.findings if one.worst_group is not None]
    whole_db = worst_db(one.sqnr_db for one in found.findings)
    group_db = worst_db(group.sqnr_db for group in groups)
    checked = f"cross-checked on all {len(subject.calibration)}: SQNR {whole_db}"
    checked += f", worst group {group_db}" if groups else ""
    return replace(
        judged,
        loss=max(judged.loss, found.loss),
        divergence=max(judged.divergence, found.divergence),
        judged_by=f"{judged.judged_by}; {checked}",
    )


def cross_check(subject: Subject, context: BuildContext, plan: Plan) -> Comparison:
    """Compare simulations of ``plan`` with the float model, each on the fifth that it is not
    fitted to.
    """
    data = subject.calibration
    simulator = Simulator(subject.float_model, context.pt2e, data)
    outputs: list[Outputs] = []
    inputs: list[Inputs] = []
    with context.progress.stage(f"cross-checking {plan.precision}") as stage:
        for fold in range(HELD_OUT_EVERY):
            fitted, judging = hold_out(data, fold)
            simulation = simulator.fitted_to(fitted)(plan)
            with simulation.rounding(everywhere):
                outputs += simulation.run(judging)
            inputs += judging
            stage.advance(fold + 1, HELD_OUT_EVERY)
    return compare_outputs(
        subject.fidelity_without_states, outputs, run_all(Batched(subject.model), inputs)
    )
