"""The commands for a model and its bundle. Each reads its flags, calls the library, prints the
document.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgekit.cli.app import app, targets_app
from edgekit.cli.options import (
    AcceptNew,
    Bundle,
    Json,
    LatencyMs,
    MaxDrop,
    MemoryMb,
    Quiet,
    SizeMb,
    Verbose,
    positive,
    share,
)
from edgekit.cli.output import output


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to write them.")] = Path(),
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write a commented recipe.py and an edgekit.toml for a model of your own."""
    import edgekit

    for path in edgekit.init(folder):
        output.emit(f"wrote {path}")
    output.emit("edit recipe.py, then: edgekit build")


@app.command()
def build(
    recipe: Annotated[
        Path | None,
        typer.Argument(metavar="[RECIPE]", help="A recipe, .pt2 or .pte; else ./recipe.py."),
    ] = None,
    target: Annotated[str | None, typer.Option(help="A target's name or TOML file.")] = None,
    runtime: Annotated[
        Literal["auto", "executorch"] | None, typer.Option(help="The on-device runtime.")
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "int8", "mixed"] | None,
        typer.Option(help="auto: the first of int8, repaired, mixed, fp32 within --max-drop."),
    ] = None,
    latency_ms: LatencyMs = None,
    memory_mb: MemoryMb = None,
    size_mb: SizeMb = None,
    max_drop: MaxDrop = None,
    effort: Annotated[
        Literal["quick", "normal", "thorough"] | None,
        typer.Option(
            help="quick: no repairs, no blame, memory measured once; thorough: nine times."
        ),
    ] = None,
    prune: Annotated[
        float | None,
        typer.Option(help="Remove channels: this share of the MACs.", callback=share),
    ] = None,
    sparsity: Annotated[
        float | None,
        typer.Option(help="Set this share of the weights to zero.", callback=share),
    ] = None,
    distill: Annotated[
        bool | None,
        typer.Option("--distill/--no-distill", help="Train towards teacher() or the model itself."),
    ] = None,
    qat: Annotated[
        bool | None,
        typer.Option("--qat/--no-qat", help="Train int8 by training(); kept where better."),
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds that all training may take.", callback=positive)
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Do what this plan says, in the place of --precision."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz", help="Typical inputs, in the place of calibration()."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Random numbers start here.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Measure on this device: local, user@host, an alias.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What a deployment is called.")] = None,
    out: Annotated[
        Path | None, typer.Option("--output", help="The bundle's folder; else ./build/NAME-TARGET.")
    ] = None,
    accept_new_host_key: AcceptNew = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compress a model until it fits, package it with its runner, and say whether it fits."""
    import edgekit
    from edgekit import settings
    from edgekit.cli.progress import make_progress
    from edgekit.report.verdict import render_verdict

    layers = settings.read_layers(
        {
            "recipe": str(recipe) if recipe else None,
            "target": target,
            "runtime": runtime,
            "precision": precision,
            "latency_ms": latency_ms,
            "memory_mb": memory_mb,
            "size_mb": size_mb,
            "max_drop": max_drop,
            "effort": effort,
            "prune": prune,
            "sparsity": sparsity,
            "distill": distill,
            "qat": qat,
            "time_limit": time_limit,
            "plan": str(plan) if plan else None,
            "calibration": str(calibration) if calibration else None,
            "seed": seed,
            "device": device,
            "name": name,
            "output": str(out) if out else None,
        }
    )
    if plan is not None and precision is not None:
        raise edgekit.UsageError("--plan says the precision: leave --precision out")
    if plan is not None and (qat or distill or prune is not None or sparsity is not None):
        raise edgekit.UsageError(
            "--plan says what is pruned and trained: leave --prune, --sparsity, --distill and "
            "--qat out"
        )
    if qat and precision == "fp32":
        raise edgekit.UsageError("--qat trains int8: leave --precision fp32 out")
    wanted = settings.pick(layers, "target")
    if wanted is None:
        raise edgekit.UsageError(
            "no target: name one with --target, or as target in edgekit.toml",
            "edgekit targets list shows them",
        )
    board = edgekit.load_target(wanted)
    document = edgekit.build(
        settings.pick(layers, "recipe", "recipe.py"),
        target=board,
        runtime=settings.pick(layers, "runtime", "auto"),
        precision=settings.pick(layers, "precision", "auto"),
        limits=settings.limits(layers, board),
        effort=settings.pick(layers, "effort", "normal"),
        prune=settings.pick(layers, "prune"),
        sparsity=settings.pick(layers, "sparsity"),
        distill=settings.pick(layers, "distill", False),
        qat=settings.pick(layers, "qat", False),
        time_limit_s=settings.pick(layers, "time_limit"),
        plan=settings.pick(layers, "plan"),
        calibration=settings.pick(layers, "calibration"),
        seed=settings.pick(layers, "seed", 0),
        device=settings.pick(layers, "device"),
        name=settings.pick(layers, "name"),
        output=settings.pick(layers, "output"),
        accept_new_host_key=accept_new_host_key,
        progress=make_progress(output.quiet),
    )
    output.emit(document.to_json() if output.json else render_verdict(document))
    raise typer.Exit(document.exit_code)


@app.command()
def check(
    bundle: Bundle,
    latency_ms: LatencyMs = None,
    memory_mb: MemoryMb = None,
    size_mb: SizeMb = None,
    max_drop: MaxDrop = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Verify every file of a bundle, run it on its CPU (emulated), hold it against its budgets."""
    import edgekit
    from edgekit.cli.progress import make_progress
    from edgekit.report.verdict import render_verdict

    document = edgekit.check(
        bundle,
        latency_ms=latency_ms,
        memory_mb=memory_mb,
        size_mb=size_mb,
        max_drop=max_drop,
        progress=make_progress(output.quiet),
    )
    output.emit(document.to_json() if output.json else render_verdict(document))
    raise typer.Exit(document.exit_code)


@app.command()
def explain(
    bundle: Bundle,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Where the accuracy went, layer by layer, and what would buy it back."""
    import edgekit
    from edgekit.report.explanation import render_explanation

    document = edgekit.explain(bundle)
    output.emit(document.to_json() if output.json else render_explanation(document))


@targets_app.command("list")
def targets_list(quiet: Quiet = False, verbose: Verbose = False) -> None:
    """Every target: built in, yours, and ./targets."""
    from edgekit.report.device import render_targets
    from edgekit.target import read_target, target_files

    output.emit(render_targets([(read_target(path), path) for path in target_files().values()]))


@targets_app.command("show")
def targets_show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name or a TOML file.")],
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """One target's file, validated."""
    from edgekit.target import load_target, target_files

    load_target(name)
    path = target_files().get(name, Path(name))
    output.emit(f"# {path}\n{path.read_text(encoding='utf-8').strip()}")
