"""The commands about this host: doctor, and the cache."""

from __future__ import annotations

import typer

from edgekit.cli.app import app, cache_app
from edgekit.cli.output import output
from edgekit.cli.shared_flags import Json, Quiet, Verbose


@app.command()
def doctor(json: Json = False, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """Show what is installed, and how to install the rest."""
    from edgekit.cli.progress import make_progress
    from edgekit.commands.doctor import diagnose
    from edgekit.report.doctor import render_doctor

    document = diagnose(make_progress(output.quiet))
    output.emit(document.to_json() if output.json else render_doctor(document))
    raise typer.Exit(document.exit_code)


@cache_app.command("show")
def cache_show(json: Json = False, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """Show the cache's folder and content."""
    from edgekit.commands.cache import describe_cache
    from edgekit.report.doctor import render_cache

    document = describe_cache()
    output.emit(document.to_json() if output.json else render_cache(document))


@cache_app.command("clear")
def cache_clear(json: Json = False, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """Remove all that builds can make again: lowered models, compiled runners."""
    from edgekit.commands.cache import clear_cache
    from edgekit.report.doctor import render_cache

    document = clear_cache()
    output.emit(document.to_json() if output.json else render_cache(document))
