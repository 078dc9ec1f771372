"""Rows on the compression steps before quantization: their cost and benefit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgekit.documents.verdict import CompressionStep, TrainingReport
from edgekit.report.terminal import INTERVAL

NAMES = {
    "drop_blocks": "fewer blocks",
    "prune": "pruned",
    "low_rank": "low rank",
    "sparsify": "zeros",
    "recover": "trained",
}

# The smallest share of zeros that is reported: no model has it by chance.
NOTICED = 0.01


def step_rows(steps: Sequence[CompressionStep]) -> Iterator[tuple[str, str]]:
    """Title and text of a row for each step."""
    for step, before in zip(steps, [None, *steps], strict=False):
        yield _title(step), _step(step, before)


def _title(step: CompressionStep) -> str:
    if step.input_size is not None:
        return "{}x{} pixels".format(*step.input_size)
    return NAMES.get(step.name, step.name)


def width_rows(steps: Sequence[CompressionStep]) -> Iterator[tuple[str, str]]:
    """A row on the final widths of the layers that lost channels."""
    widths: dict[str, tuple[int, int]] = {}
    for step in steps:
        for layer, (now, before) in step.widths.items():
            widths[layer] = now, widths.get(layer, (now, before))[1]
    if widths:
        lines = (f"{layer} {now} of {before}" for layer, (now, before) in widths.items())
        yield "widths", ", ".join(lines)


def refused_rows(steps: Sequence[CompressionStep]) -> Iterator[tuple[str, str]]:
    """Rows on the layers that were not pruned or factorized, with the reasons."""
    for name, title in (("prune", "not pruned"), ("low_rank", "not factorized")):
        rows = [row for step in steps if step.name == name for row in step.refused]
        lines = dict.fromkeys(f"{row.layer or '(the model)'}: {row.why}" for row in rows)
        if lines:
            yield title, "\n".join(lines)


def _step(step: CompressionStep, before: CompressionStep | None) -> str:
    """The changes and measurements of a step."""
    if step.name == "sparsify" and step.refused:
        return step.refused[0].why
    macs, parameters = (
        (before.macs, before.parameters)
        if before is not None
        else (step.macs_before, step.parameters_before)
    )
    parts = [_training(step.training)] if step.training is not None else []
    if step.training is not None and step.training.stop == 0:
        return parts[0]
    parts += _quality(step)
    if step.macs != macs:
        parts.append(f"{_millions(step.macs)} MACs of {_millions(step.macs_before)}")
    if step.dropped:
        parts.append(f"without {', '.join(step.dropped)}")
    if step.name == "low_rank":
        parts.append(_factors(step))
    if step.parameters != parameters:
        now, whole = (_millions(count) for count in (step.parameters, step.parameters_before))
        parts.append(f"{now} parameters of {whole}")
    if step.name == "sparsify":
        parts.append(f"{step.zeros:.0%} of the weights are zero")
    parts.append(_size(step))
    if step.latency_ratio is not None:
        middle, low, high = step.latency_ratio
        parts.append(f"latency {middle:.2f}x on {step.device} ({INTERVAL} {low:.2f}-{high:.2f})")
    if step.peak_memory_mb is not None and step.peak_memory_before_mb is not None:
        peaks_mb = f"{step.peak_memory_mb:.2f} MB of {step.peak_memory_before_mb:.2f}"
        parts.append(f"peak memory {peaks_mb}")
    return ", ".join(parts)


def _factors(step: CompressionStep) -> str:
    """The factorized layers: ``layer3.0.conv1 (spatial 32)``."""
    named = [
        f"{layer} ({one.form} {'+'.join(map(str, one.ranks))})"
        for layer, one in (step.factors or {}).items()
    ]
    return f"factors for {', '.join(named)}" if named else "no layer is faster as factors"


def _quality(step: CompressionStep) -> Iterator[str]:
    """The quality by the recipe's metric, else by agreement with the original's outputs."""
    if step.accuracy is not None:
        yield f"{step.accuracy:.2f} in torch"
    elif step.agreement is not None:
        yield f"top-1 agreement with the original {step.agreement:.1f} %"
    elif step.sqnr_db is not None:
        yield f"SQNR {step.sqnr_db:.1f} dB against the original"


OBJECTIVES = {
    "labels": "by labels",
    "float_model": "against the original, without labels",
    "both": "by labels and the teacher",
}


def _training(training: TrainingReport) -> str:
    by = OBJECTIVES[training.objective]
    if training.stop == 0:
        return f"{training.steps} steps {by} gave no improvement: not applied"
    stopped = ", stopped by hand" if training.interrupted else ""
    return f"step {training.stop} of {training.steps} {by}{stopped}"


def _size(step: CompressionStep) -> str:
    """The size of the file, and with gzip if it has zeros."""
    size = f"{step.precision} file {step.model_mb:.3g} MB of {step.model_before_mb:.3g}"
    packed = f"{step.compressed_mb:.3g} of {step.compressed_before_mb:.3g}"
    return f"{size} (packed {packed})" if step.zeros > NOTICED else size


def _millions(count: int) -> str:
    return f"{count / 1e6:.3g} M" if count >= 1e6 else f"{count / 1e3:.3g} k"
