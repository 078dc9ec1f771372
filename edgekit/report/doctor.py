"""The state of this host and its cache as text for a terminal."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from edgekit.documents.host import CacheDocument, DoctorDocument, Finding
from edgekit.report.terminal import grid, render, render_line

COLOR = {"ok": "green", "missing": "red", "wrong_version": "red", "broken": "red"}


def render_doctor(document: DoctorDocument) -> str:
    """The findings, the tasks that work, and the commands that install missing packages."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("found", overflow="fold")
    table.add_column("needed for", no_wrap=True)
    for finding in document.findings:
        needed_for = ", ".join(finding.needed_for)
        table.add_row(finding.name, _status(finding), escape(finding.detail), needed_for)
    rows = [
        (ability.name, "yes" if ability.works else f"no, it needs {', '.join(ability.lacks)}")
        for ability in document.abilities
    ]
    text = render(table) + "\n" + grid([("what works", ""), *rows])
    return text + _commands("missing packages", document.commands) + _optional(document.findings)


def render_cache(document: CacheDocument) -> str:
    """The cache's parts, and how much was freed."""
    freed = "" if document.freed_mb is None else f"freed {document.freed_mb:.1f} MB\n"
    if not document.parts:
        return f"{freed}the cache {document.folder} is empty\n"
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("part")
    table.add_column("entries", justify="right")
    table.add_column("MB", justify="right")
    for part in document.parts:
        table.add_row(escape(part.name), str(part.entries), f"{part.size_mb:.1f}")
    return f"{freed}{render(table)}{document.size_mb:.1f} MB in {document.folder}\n"


def _status(finding: Finding) -> str:
    color = COLOR.get(finding.status, "dim")
    return f"[{color}]{finding.status.replace('_', ' ')}[/{color}]"


def _optional(findings: tuple[Finding, ...]) -> str:
    commands = [f.command for f in findings if f.status == "not_needed" and f.command]
    return _commands("optional packages", tuple(commands))


def _commands(title: str, commands: tuple[str, ...]) -> str:
    if not commands:
        return ""
    lines = "\n".join(f"  {escape(command)}" for command in commands)
    return render_line(f"\nto install {title}:\n{lines}")
