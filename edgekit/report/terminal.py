"""Rich's tables and markup, rendered to text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH = 100


def grid(rows: Sequence[tuple[str, str]]) -> str:
    """Titles and texts in two columns. Markup in the texts is not interpreted."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for title, text in rows:
        table.add_row(title, text.replace("[", r"\["))
    return render(table)


def render_line(text: str) -> str:
    """A line with markup, without line breaks."""
    return render(text, soft_wrap=True)


def render(thing: Any, soft_wrap: bool = False) -> str:
    """Render to text, with colors only if stdout is a terminal and NO_COLOR is not set."""
    outside = Console()
    console = Console(
        file=io.StringIO(),
        width=max(60, min(outside.width, 140)) if outside.is_terminal else WIDTH,
        force_terminal=outside.is_terminal,
        highlight=False,
    )
    console.print(thing, soft_wrap=soft_wrap)
    text = str(console.file.getvalue())  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.rstrip("\n").split("\n")) + "\n"


def number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"


INTERVAL = "95 % CI"


def ms(value: float) -> str:
    if value < 0.1:
        return f"{value * 1000:.1f} us"
    return f"{value:.3f} ms" if value < 10 else f"{value:.1f} ms"
