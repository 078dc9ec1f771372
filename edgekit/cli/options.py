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
        raise typer.BadParameter("a number above 0")
    return value


def share(value: float | None) -> float | None:
    if value is not None and not 0 < value < 1:
        raise typer.BadParameter(f"{value:g}: a share, more than 0 and less than 1 (0.5: a half)")
    return value


def _not_negative(value: float | None) -> float | None:
    if value is not None and not (value >= 0 and math.isfinite(value)):
        raise typer.BadParameter("a number from 0 on")
    return value


Json = Annotated[
    bool, typer.Option("--json", help="One JSON document on stdout.", callback=_set_json)
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.", callback=_set_quiet)]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="Tracebacks and timings.", callback=_set_verbose)
]
LatencyMs = Annotated[
    float | None,
    typer.Option(help="Budget: median milliseconds of one inference.", callback=positive),
]
MemoryMb = Annotated[
    float | None,
    typer.Option(help="Budget: peak resident memory of the runner.", callback=positive),
]
SizeMb = Annotated[
    float | None,
    typer.Option(help="Budget: model, runner, libraries, manifest.", callback=positive),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(help="Budget: points of accuracy that may be lost.", callback=_not_negative),
]
AcceptNew = Annotated[
    bool,
    typer.Option("--accept-new-host-key", help="Trust a device that is seen for the first time."),
]
Device = Annotated[
    str,
    typer.Argument(metavar="DEVICE", help="local, user@host, ssh://user@host:port, an alias."),
]
DeployedName = Annotated[str, typer.Argument(metavar="NAME", help="What a deployment is called.")]
Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.")]
