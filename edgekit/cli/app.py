"""The application that the commands register with, and its global options."""

from __future__ import annotations

from typing import Annotated

import typer

from edgekit.cli.output import output
from edgekit.cli.shared_flags import Quiet, Verbose

# Markup in help texts would import rich at every start.
app = typer.Typer(
    name="edgekit",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
targets_app = typer.Typer(
    no_args_is_help=True, help="List and show targets, probe and calibrate devices."
)
app.add_typer(targets_app, name="targets")
cache_app = typer.Typer(no_args_is_help=True, help="Show and clear the cache on this host.")
app.add_typer(cache_app, name="cache")


def _print_version(value: bool) -> None:
    if value:
        import edgekit

        output.emit(f"edgekit {edgekit.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Take a PyTorch model to a real edge device and prove that it fits."""
