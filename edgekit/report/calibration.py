"""The result of targets calibrate as text for a terminal."""

from __future__ import annotations

from rich.table import Table

from edgekit.documents.calibration import CalibrateDocument, CalibrationQuality
from edgekit.report.terminal import grid, ms, render

WORST = 5


def render_calibration(document: CalibrateDocument) -> str:
    rows = [
        ("device", f"{document.device}: {document.model} ({document.cpu})"),
        ("runtime", f"{document.runtime} {document.runtime_version}"),
        ("measured", f"{document.operators} operators"),
        *[("warning", warning) for warning in document.warnings],
    ]
    tables = "".join("\n" + _quality(one) for one in document.quality)
    return grid(rows) + tables + "\n" + grid([("stored", document.file)])


def _quality(quality: CalibrationQuality) -> str:
    threads = f"{quality.threads} thread{'s' if quality.threads > 1 else ''}"
    summary = grid(
        [
            (
                threads,
                f"programs not fitted: mean error {quality.mean_error:.1%}, worst "
                f"{quality.worst_error:.1%}; {quality.covered:.0%} inside their range",
            )
        ]
    )
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for title in ("worst predicted", "precision", "measured", "predicted", "range", "error"):
        table.add_column(title)
    for one in sorted(quality.programs, key=lambda program: -abs(program.error))[:WORST]:
        table.add_row(
            one.network,
            one.precision,
            ms(one.measured_ms),
            ms(one.predicted_ms),
            f"{ms(one.interval_ms[0])} to {ms(one.interval_ms[1])}",
            f"{one.error:+.1%}",
        )
    return summary + render(table)
