"""The runtimes that ``--runtime auto`` compared, as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.documents.runtimes import RuntimeCandidate
from edgekit.report.terminal import number


def runtime_rows(candidates: Sequence[RuntimeCandidate]) -> list[tuple[str, str]]:
    lines = [_line(one) for one in candidates]
    return [("runtimes", "\n".join(lines))] if lines else []


def _line(one: RuntimeCandidate) -> str:
    figures = [
        f"{number(value)} {unit}"
        for value, unit in (
            (one.latency_ms, "ms"),
            (one.peak_memory_mb, "MB of memory"),
            (one.size_mb, "MB on disk"),
        )
        if value is not None
    ]
    built = f" ({', '.join([one.precision or '', *figures])})" if one.verdict is not None else ""
    return f"{one.runtime}{built} {'kept' if one.kept else 'not kept'}: {one.reason}"
