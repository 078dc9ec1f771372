"""Parity: the artifact, run by its native runner, compared with torch."""

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
    half_passes,
)
from edgekit.fidelity.comparison import MIN_GROUP_DB, MIN_WHOLE_DB
from edgekit.pipeline.model.batched import Batched
from edgekit.pipeline.model.predict import Run, run_all, run_eager
from edgekit.pipeline.model.subject import Subject
from edgekit.pipeline.precision.lower import EAGER, LoweredModel
from edgekit.pipeline.precision.parity_hints import why_unequal
from edgekit.plan import Plan, Precision
from edgekit.recipe.calibration_file import MIN_TO_HOLD_OUT, spread_over

# At most so many held-out calibration inputs judge an artifact.
MAX_JUDGED = 200
INT8_RULE = "SQNR >= 20 dB, or as near to the float model"
FLOAT_RULE = "max|a-b| / max|b| <= 1e-3"
HALF_RULE = "SQNR >= 25 dB, or as near to the float model as half precision in torch"


def compare(
    subject: Subject, lowered: LoweredModel, run: Run, precision: Precision
) -> tuple[Parity, tuple[float, ...]]:
    """Compare the artifact with its reference on the example and on calibration inputs.

    Returns the parity, and the largest difference in each output.
    """
    batched = [output.batched for output in subject.fidelity.outputs]
    quantized = QuantizedAgreement(batched)
    to_reference, to_float, half = (OutputsAgreement(len(batched)) for _ in range(3))
    rows = zip(subject.parity_inputs, lowered.reference, lowered.floats, strict=True)
    for inputs, reference, floats in rows:
        three = [arrays(outputs) for outputs in (run(inputs), reference, floats)]
        quantized.add(*three)
        to_reference.add(three[0], three[1])
        to_float.add(three[0], three[2])
        half.add(three[1], three[2])
    if precision == "fp16":
        passed, rule, compared = half_passes(to_float, half), HALF_RULE, to_float
    elif precision in ("int8", "mixed"):
        passed, rule, compared = quantized.passes, INT8_RULE, to_reference
    else:
        passed, rule, compared = float_passes(to_reference), FLOAT_RULE, to_reference
    parity = Parity(
        **compared.worst().model_dump(),
        passed=passed,
        reference=EAGER if compared is to_float else lowered.reference_name,
        rule=rule,
        compared=to_reference.compared,
        float_model=to_float.worst(),
    )
    return parity, tuple(output.max_abs_diff for output in to_reference.outputs)


def in_sequence(subject: Subject, run: Run) -> Agreement | None:
    """Compare the artifact with the float model along the calibration inputs, with states fed back.
    None for a model without state.
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
    """Return ``parity`` if it passed; else raise ParityError with its numbers and a hint."""
    if parity.passed:
        return parity
    sqnr = "bit-equal" if parity.sqnr_db is None else f"SQNR {parity.sqnr_db:.1f} dB"
    int8 = precision in ("int8", "mixed")
    if parity.sqnr_db is not None and parity.sqnr_db >= MIN_SQNR_DB and int8:
        sqnr += ", but less in one of its groups"
    raise ParityError(
        f"the artifact does not compute what the model does: on {parity.compared} inputs (the "
        f"example and calibration) its outputs differ from {parity.reference} by up to "
        f"{parity.max_abs_diff:.3g} ({sqnr}); required is {parity.rule}",
        why_unequal(subject.model, subject.example, precision),
    )


@dataclass(frozen=True)
class Judgement:
    """A judgement without labels. ``loss``: in points (fidelity.Comparison). ``divergence``: orders
    equal losses. ``judged_by``: the measure, as text.
    """

    loss: float
    divergence: float
    judged_by: str
    outputs: tuple[OutputFidelity, ...]


def judge_without_labels(subject: Subject, run: Run, plan: Plan) -> Judgement:
    """Compare an artifact with the float model on held-out calibration inputs.

    Nothing is fitted to them, but repairs and float layers were chosen by them.
    """
    judged = spread_over(subject.judged, MAX_JUDGED)
    floats = run_all(Batched(subject.model), judged)
    comparison = subject.fidelity_without_states.start()
    run, count = subject.in_sequence(run), len(comparison.outputs)
    for inputs, expected in zip(judged, floats, strict=True):
        comparison.add(arrays(run(inputs)[:count]), arrays(expected[:count]))
    found = comparison.findings
    usage = "held out" if len(subject.calibration) >= MIN_TO_HOLD_OUT else "also used for fitting"
    if plan.float_layers or not plan.is_plain:
        usage += ", also used to choose the plan"
    kinds = "; ".join(_fidelity_text(output) for output in found)
    fed_back = ", states fed back" if subject.states else ""
    return Judgement(
        loss=comparison.loss,
        divergence=comparison.divergence,
        judged_by=f"{kinds}, {len(judged)} calibration inputs {usage}{fed_back}",
        outputs=found,
    )


def _fidelity_text(output: OutputFidelity) -> str:
    assumed = " (assumed)" if output.assumed else ""
    if output.agreement is not None and output.kind == "values":
        return f"{output.name} as whole numbers: {output.agreement:.2f} % equal"
    if output.agreement is not None:
        return f"{output.name} as classes{assumed}: top-1 agreement {output.agreement:.2f} %"
    text = f"{output.name} as values{assumed}: SQNR {_db(output.sqnr_db)}"
    if output.worst_group is not None:
        worst = output.worst_group
        text += f", worst group (axis {worst.axis}, index {worst.index}) {_db(worst.sqnr_db)}"
    return f"{text} (limits {MIN_WHOLE_DB:.0f} and {MIN_GROUP_DB:.0f} dB)"


def worst_db(values: Iterable[float | None]) -> str:
    """The lowest of some signal-to-noise ratios, as text. A ratio of None means bit-equal."""
    return _db(min((value for value in values if value is not None), default=None))


def _db(value: float | None) -> str:
    return "bit-equal" if value is None else f"{value:.1f} dB"
