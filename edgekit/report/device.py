"""The results of commands that use a device, and the targets, as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.table import Table

from edgekit.documents.device import DeployDocument, EvalDocument, LsDocument, RunDocument
from edgekit.report.terminal import grid, ms, render
from edgekit.target import Target


def render_deploy(document: DeployDocument) -> str:
    state = "is current" if document.changed else "was already current"
    rows = [
        ("device", document.device),
        ("release", f"{document.release} of {document.name} {state}"),
        ("sent", f"{_megabytes(document.sent_bytes)}, {_megabytes(document.reused_bytes)} reused"),
        ("path", document.path),
    ]
    return grid(rows)


def render_ls(document: LsDocument) -> str:
    if not document.bundles:
        return f"no bundle on {document.device}\n"
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for title in ("name", "release", "size", ""):
        table.add_column(title)
    for row in document.bundles:
        mark = "current" if row.current else ""
        table.add_row(row.name, row.release, f"{row.size_mb:.2f} MB", mark)
    return render(table)


def render_run(document: RunDocument) -> str:
    rows = [(row.name, f"{row.file}: {row.dtype} {list(row.shape)}") for row in document.outputs]
    return grid([("device", document.device), *rows, ("took", ms(document.latency_ms))])


def render_eval(document: EvalDocument) -> str:
    host = "unknown" if document.host_accuracy is None else f"{document.host_accuracy:.2f}"
    rows = [
        ("device", document.device),
        ("accuracy", f"{document.accuracy:.2f} on the device, {host} on the host at build time"),
        ("inferences", str(document.inferences)),
    ]
    return grid([*rows, ("note", document.note)] if document.note else rows)


def render_targets(targets: Iterable[tuple[Target, Path]]) -> str:
    table = Table(box=None, pad_edge=False)
    for title in ("name", "architecture", "cpu", "cores", "memory", "runtimes", "what it is"):
        table.add_column(title)
    for target, _ in targets:
        table.add_row(
            target.name,
            target.architecture,
            target.cpu,
            str(target.cores),
            f"{target.memory_mb:g} MB" if target.memory_mb else "-",
            ", ".join(target.runtimes),
            target.description,
        )
    return render(table)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"
