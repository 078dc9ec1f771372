"""The findings of doctor for predicting the latency of a board without the board."""

from __future__ import annotations

from collections.abc import Callable

from edgekit.cost.emulation.tools import TOOLS, Tool
from edgekit.documents.host import Finding
from edgekit.documents.verdict import Status

PREDICTING = "predicting latency"


def prediction_findings(install: Callable[[str], str]) -> list[Finding]:
    """A finding for each tool of emulation. ``install``: the command that installs packages."""
    return [_finding(tool, install) for tool in TOOLS]


def _finding(tool: Tool, install: Callable[[str], str]) -> Finding:
    found, problem = tool.find(), tool.problem()
    command = install(tool.packages)
    status: Status = "ok" if found else "missing"
    detail = found or f"{tool.purpose}; without it, latency is only estimated"
    if problem:
        status, detail = "wrong_version", problem
    return Finding(
        name=tool.name,
        status=status,
        detail=detail,
        needed_for=(PREDICTING,),
        command=None if status == "ok" or (problem and not tool.packages_repair) else command,
    )
