"""Is what was lowered what was meant? The artifact, run by its native runner, against torch."""

from __future__ import annotations

from edgekit.compress.divergence import is_classes
from edgekit.documents import Parity
from edgekit.errors import ParityError
from edgekit.measurement.agreement import (
    OutputsAgreement,
    float_passes,
    int8_passes,
    top1_agreement,
)
from edgekit.pipeline.lowered import Lowered
from edgekit.pipeline.predict import Run, run_eager, to_array, to_arrays
from edgekit.pipeline.subject import Subject
from edgekit.plan import Precision

# Without classes to agree on, an artifact this near the float model is taken (in dB).
MIN_FLOAT_SQNR_DB = 20.0


def compare(subject: Subject, lowered: Lowered, run: Run, precision: Precision) -> Parity:
    """Compare on the example and on calibration inputs, as the contract says."""
    near = OutputsAgreement(len(subject.structure.names))
    far = OutputsAgreement(len(subject.structure.names))
    rows = zip(subject.parity_inputs, lowered.reference, lowered.floats, strict=True)
    for inputs, reference, floats in rows:
        actual = to_arrays(run(inputs))
        near.add(actual, to_arrays(reference))
        far.add(actual, to_arrays(floats))
    int8 = precision in ("int8", "mixed")
    return Parity(
        **near.worst().model_dump(),
        passed=int8_passes(near) if int8 else float_passes(near),
        reference="the quantized model in torch" if int8 else "the eager model in torch",
        rule="SQNR >= 20 dB" if int8 else "max|a-b| / max|b| <= 1e-3",
        compared=near.compared,
        float_model=far.worst(),
    )


def require(parity: Parity) -> Parity:
    """Raise ParityError, saying what was compared, unless it passed."""
    if parity.passed:
        return parity
    sqnr = "bit-equal" if parity.sqnr_db is None else f"SQNR {parity.sqnr_db:.1f} dB"
    raise ParityError(
        f"the artifact does not compute what the model does: on {parity.compared} inputs (the "
        f"example and calibration) its outputs differ from {parity.reference} by up to "
        f"{parity.max_abs_diff:.3g} ({sqnr}); required is {parity.rule}",
        "the runtime has a wrong kernel for this model (half precision and large normalised "
        "dimensions are known cases): try the model in float32, or --precision fp32",
    )


def drop_without_labels(subject: Subject, run: Run, parity: Parity) -> tuple[float, str]:
    """How much ``auto`` believes was lost where the recipe has no ``evaluate``.

    With classes: 100 minus the top-1 agreement with the float model on the calibration data.
    Without: 0 where the outputs are within MIN_FLOAT_SQNR_DB of the float model's, else 100.
    """
    if is_classes(subject.example_outputs):
        floats = run_eager(subject.model)
        pairs = [
            (to_array(run(inputs)[0]), to_array(floats(inputs)[0]))
            for inputs in subject.calibration
        ]
        agreement = top1_agreement([a for a, _ in pairs], [b for _, b in pairs])
        return 100.0 - agreement, "top-1 agreement with the float model on the calibration data"
    level = parity.float_model.sqnr_db if parity.float_model else None
    near = level is None or level >= MIN_FLOAT_SQNR_DB
    said = "bit-equal" if level is None else f"{level:.1f} dB"
    return (0.0 if near else 100.0), (
        f"SQNR against the float model ({said}; {MIN_FLOAT_SQNR_DB:.0f} dB wanted)"
    )
