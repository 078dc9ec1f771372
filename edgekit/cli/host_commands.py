"""The commands about this host: what is installed, and what edgekit keeps here."""

from __future__ import annotations

import typer

from edgekit.cli.app import app, cache_app
from edgekit.cli.options import Json, Quiet, Verbose
from edgekit.cli.output import output


@app.command()
def doctor(json: Json = False, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """What is installed here, what is missing, and the command that installs it."""
    from edgekit.cli.progress import make_progress
    from edgekit.commands.doctor import diagnose
    from edgekit.report.doctor import render_doctor

    document = diagnose(make_progress(output.quiet))
    output.emit(document.to_json() if output.json else render_doctor(document))
    raise typer.Exit(document.exit_code)


@cache_app.command("show")
def cache_show(json: Json = False, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """What the cache holds, and where it is."""
    from edgekit.commands.cache import describe_cache
    from edgekit.report.doctor import render_cache

    document = describe_cache()
    output.emit(document.to_json() if output.json else render_cache(document))


@cache_app.command("clear")
def cache_clear(json: Json = False, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """Remove what builds make again by themselves: lowered models, compiled runners."""
    from edgekit.commands.cache import clear_cache
    from edgekit.report.doctor import render_cache

    document = clear_cache()
    output.emit(document.to_json() if output.json else render_cache(document))
