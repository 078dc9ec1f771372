"""The flags and arguments that several commands share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.output import output


def _set_json(value: bool) -> bool:
    return value


def _set_quiet(value: bool) -> bool:
    output.quiet = output.quiet or value
    return value


def _set_verbose(value: bool) -> bool:
    output.verbose = output.verbose or value
    return value


def positive(value: float | None) -> float | None:
    if value is not None and not (value > 0 and math.isfinite(value)):
        raise typer.BadParameter("must be a number above 0")
    return value


Json = Annotated[
    bool, typer.Option("--json", help="One JSON document on stdout.", callback=_set_json)
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.", callback=_set_quiet)]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="Print tracebacks.", callback=_set_verbose)
]
AcceptNew = Annotated[
    bool,
    typer.Option("--accept-new-host-key", help="Trust the host key of a new device."),
]
Device = Annotated[
    str,
    typer.Argument(metavar="DEVICE", help="local, user@host, ssh://user@host:port, an alias."),
]
DeployedName = Annotated[str, typer.Argument(metavar="NAME", help="The name of a deployment.")]
Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.")]
