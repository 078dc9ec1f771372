"""The findings of doctor for predicting the latency of a board without the board."""

from __future__ import annotations

from collections.abc import Callable

from edgekit.cost.emulation.tools import TOOLS, Tool
from edgekit.documents.host import Finding

PREDICTING = "predicting latency"


def prediction_findings(install: Callable[[str], str]) -> list[Finding]:
    """A finding for each tool of emulation. ``install``: the command that installs packages."""
    return [_finding(tool, install) for tool in TOOLS]


def _finding(tool: Tool, install: Callable[[str], str]) -> Finding:
    found = tool.find()
    return Finding(
        name=tool.name,
        status="ok" if found else "missing",
        detail=found or f"{tool.purpose}; without it, latency is only estimated",
        needed_for=(PREDICTING,),
        command=None if found else install(tool.packages),
    )
