"""The commands for a model and its bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.build_options import BUDGETS, FLAGS, validated
from edgekit.cli.app import app, targets_app
from edgekit.cli.build_flags import with_options
from edgekit.cli.output import output
from edgekit.cli.shared_flags import AcceptNew, Bundle, Json, Quiet, Verbose


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="The output folder.")] = Path(),
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write a commented recipe.py and an edgekit.toml."""
    import edgekit

    for path in edgekit.init(folder):
        output.emit(f"wrote {path}")
    output.emit("edit recipe.py, then: edgekit build")


@app.command()
@with_options()
def build(
    options: dict[str, Any],
    accept_new_host_key: AcceptNew = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Build a bundle and judge whether it fits its budgets."""
    import edgekit
    from edgekit import settings
    from edgekit.cli.progress import make_progress
    from edgekit.report.verdict import render_verdict

    layers = settings.read_layers(options)
    chosen = settings.merge(layers)
    if "target" not in chosen:
        raise edgekit.UsageError(
            "no target was given",
            "set --target, or target in edgekit.toml; edgekit targets list shows the targets",
        )
    document = edgekit.build(
        **chosen,
        limits=settings.limits(layers),
        accept_new_host_key=accept_new_host_key,
        progress=make_progress(output.quiet),
    )
    output.emit(document.to_json() if output.json else render_verdict(document))
    raise typer.Exit(document.exit_code)


@app.command()
@with_options(BUDGETS)
def check(
    bundle: Bundle,
    options: dict[str, Any],
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Verify a bundle, run it on its CPU, and judge it by its budgets."""
    import edgekit
    from edgekit.cli.progress import make_progress
    from edgekit.report.verdict import render_verdict

    budgets = validated(options, FLAGS)
    document = edgekit.check(bundle, **budgets, progress=make_progress(output.quiet))
    output.emit(document.to_json() if output.json else render_verdict(document))
    raise typer.Exit(document.exit_code)


@app.command()
def explain(
    bundle: Bundle,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Show the accuracy lost per layer, and what recovers it."""
    import edgekit
    from edgekit.report.explanation import render_explanation

    document = edgekit.explain(bundle)
    output.emit(document.to_json() if output.json else render_explanation(document))


@targets_app.command("list")
def targets_list(quiet: Quiet = False, verbose: Verbose = False) -> None:
    """List all targets: built in, of your configuration, and of ./targets."""
    from edgekit.report.device import render_targets
    from edgekit.target import read_target, target_files

    output.emit(render_targets([(read_target(path), path) for path in target_files().values()]))


@targets_app.command("show")
def targets_show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name or a TOML file.")],
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Validate and print a target's file."""
    from edgekit.target import load_target, target_files

    load_target(name)
    path = target_files().get(name, Path(name))
    output.emit(f"# {path}\n{path.read_text(encoding='utf-8').strip()}")
