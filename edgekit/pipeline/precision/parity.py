"""Is what was lowered what was meant? The artifact, run by its native runner, against torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgekit.compress.divergence import arrays
from edgekit.documents.measure import Agreement, OutputFidelity, Parity
from edgekit.errors import ParityError
from edgekit.fidelity.agreement import (
    MIN_SQNR_DB,
    OutputsAgreement,
    QuantizedAgreement,
    float_passes,
)
from edgekit.fidelity.comparison import MIN_GROUP_DB, MIN_WHOLE_DB
from edgekit.pipeline.model.batched import Batched
from edgekit.pipeline.model.predict import Run, run_all, run_eager
from edgekit.pipeline.model.subject import Subject
from edgekit.pipeline.precision.lower import LoweredModel
from edgekit.pipeline.precision.parity_hints import why_unequal
from edgekit.plan import Plan, Precision
from edgekit.recipe.calibration_file import MIN_TO_HOLD_OUT, spread_over

# Of the calibration inputs that were kept apart, how many judge an artifact.
MAX_JUDGED = 200
INT8_RULE = "SQNR >= 20 dB, or as near to the float model"
FLOAT_RULE = "max|a-b| / max|b| <= 1e-3"
QUANTIZED, EAGER = "the quantized model in torch", "the eager model in torch"


def compare(subject: Subject, lowered: LoweredModel, run: Run, precision: Precision) -> Parity:
    """Compare on the example and on calibration inputs, as the contract says."""
    batched = [output.batched for output in subject.fidelity.outputs]
    quantized = QuantizedAgreement(batched)
    near, far = OutputsAgreement(len(batched)), OutputsAgreement(len(batched))
    rows = zip(subject.parity_inputs, lowered.reference, lowered.floats, strict=True)
    for inputs, reference, floats in rows:
        three = [arrays(outputs) for outputs in (run(inputs), reference, floats)]
        quantized.add(*three)
        near.add(three[0], three[1])
        far.add(three[0], three[2])
    int8 = precision in ("int8", "mixed")
    return Parity(
        **near.worst().model_dump(),
        passed=quantized.passes if int8 else float_passes(near),
        reference=EAGER if lowered.quantized is None else QUANTIZED,
        rule=INT8_RULE if int8 else FLOAT_RULE,
        compared=near.compared,
        float_model=far.worst(),
    )


def in_sequence(subject: Subject, run: Run) -> Agreement | None:
    """The artifact's outputs along the calibration inputs, its own states fed back, against the
    float model's; None of a model without state.
    """
    steps = subject.calibration[:MAX_JUDGED]
    if not subject.states or not steps:
        return None
    count = len(subject.structure.names) - len(subject.states)
    follow, eager, found = (
        subject.in_sequence(run),
        run_eager(subject.model),
        OutputsAgreement(count),
    )
    for inputs in steps:
        found.add(*(arrays(ask(inputs)[:count]) for ask in (follow, eager)))
    return found.worst()


def require(parity: Parity, subject: Subject, precision: Precision) -> Parity:
    """Raise ParityError, with what was compared and what to do, unless it passed."""
    if parity.passed:
        return parity
    sqnr = "bit-equal" if parity.sqnr_db is None else f"SQNR {parity.sqnr_db:.1f} dB"
    if parity.sqnr_db is not None and parity.sqnr_db >= MIN_SQNR_DB and precision != "fp32":
        sqnr += ", but less in one of its groups"
    raise ParityError(
        f"the artifact does not compute what the model does: on {parity.compared} inputs (the "
        f"example and calibration) its outputs differ from {parity.reference} by up to "
        f"{parity.max_abs_diff:.3g} ({sqnr}); required is {parity.rule}",
        why_unequal(subject.model, subject.example, precision),
    )


@dataclass(frozen=True)
class Judgement:
    """What is lost without labels: ``loss`` in points (fidelity.Comparison), ``divergence`` tells
    losses apart that are equal, ``judged_by`` in words.
    """

    loss: float
    divergence: float
    judged_by: str
    outputs: tuple[OutputFidelity, ...]


def judge_without_labels(subject: Subject, run: Run, plan: Plan) -> Judgement:
    """Hold an artifact against the float model on calibration inputs that were kept apart: nothing
    is fitted to them, but they told which repairs and which float layers are best.
    """
    judged = spread_over(subject.judged, MAX_JUDGED)
    floats, comparison = (
        run_all(Batched(subject.model), judged),
        subject.fidelity_without_states.start(),
    )
    run, count = subject.in_sequence(run), len(comparison.outputs)
    for inputs, wanted in zip(judged, floats, strict=True):
        comparison.add(arrays(run(inputs)[:count]), arrays(wanted[:count]))
    found = comparison.findings
    apart = "held out" if len(subject.calibration) >= MIN_TO_HOLD_OUT else "also used for fitting"
    if plan.float_layers or not plan.is_plain:
        apart += ", also used to choose the plan"
    kinds = "; ".join(_in_words(output) for output in found)
    fed_back = ", states fed back" if subject.states else ""
    return Judgement(
        loss=comparison.loss,
        divergence=comparison.divergence,
        judged_by=f"{kinds}, {len(judged)} calibration inputs {apart}{fed_back}",
        outputs=found,
    )


def _in_words(output: OutputFidelity) -> str:
    """An output's fidelity in words."""
    assumed = " (assumed)" if output.assumed else ""
    if output.agreement is not None and output.kind == "values":
        return f"{output.name} as whole numbers: {output.agreement:.2f} % equal"
    if output.agreement is not None:
        return f"{output.name} as classes{assumed}: top-1 agreement {output.agreement:.2f} %"
    said = f"{output.name} as values{assumed}: SQNR {_db(output.sqnr_db)}"
    if output.worst_group is not None:
        worst = output.worst_group
        said += f", worst group (axis {worst.axis}, index {worst.index}) {_db(worst.sqnr_db)}"
    return f"{said} (limits {MIN_WHOLE_DB:.0f} and {MIN_GROUP_DB:.0f} dB)"


def worst_db(values: Iterable[float | None]) -> str:
    """The least of some signal-to-noise ratios; None is bit-equal."""
    return _db(min((value for value in values if value is not None), default=None))


def _db(value: float | None) -> str:
    return "bit-equal" if value is None else f"{value:.1f} dB"
