"""What was done to a model before it was quantized: what each step cost and bought."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgekit.documents import CompressionStep

NAMES = {"prune": "pruned", "recover": "trained"}


def steps_said(steps: Sequence[CompressionStep]) -> Iterator[tuple[str, str]]:
    """Title and text of a row for each step."""
    for step in steps:
        yield NAMES.get(step.name, step.name), _said(step)


def refused_said(steps: Sequence[CompressionStep]) -> Iterator[tuple[str, str]]:
    """The layers that were left as they were, and why."""
    lines = [f"{row['layer'] or '(the model)'}: {row['why']}" for s in steps for row in s.refused]
    if lines:
        yield "not pruned", "\n".join(lines)


def _said(step: CompressionStep) -> str:
    parts = [
        f"{_millions(step.macs)} MACs of {_millions(step.macs_before)}",
        f"{_millions(step.parameters)} parameters of {_millions(step.parameters_before)}",
    ]
    if step.accuracy is not None:
        parts.append(f"{step.accuracy:.2f} in torch")
    if step.latency_ratio is not None:
        middle, low, high = step.latency_ratio
        parts.append(f"{middle:.2f} times the latency in fp32 ({low:.2f} to {high:.2f})")
    return ", ".join(parts)


def _millions(count: int) -> str:
    return f"{count / 1e6:.3g} M" if count >= 1e6 else f"{count / 1e3:.3g} k"
