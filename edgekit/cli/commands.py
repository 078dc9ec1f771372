"""The commands. Each reads its flags, calls the library, prints the document."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from edgekit.cli.output import output

# Rich's markup of help costs its import at every start.
app = typer.Typer(
    name="edgekit",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
targets_app = typer.Typer(no_args_is_help=True, help="What is known about devices.")
app.add_typer(targets_app, name="targets")


def _set_json(value: bool) -> bool:
    return value


def _set_quiet(value: bool) -> bool:
    output.quiet = output.quiet or value
    return value


def _set_verbose(value: bool) -> bool:
    output.verbose = output.verbose or value
    return value


def _positive(value: float | None) -> float | None:
    if value is not None and not (value > 0 and math.isfinite(value)):
        raise typer.BadParameter("a budget is a number above 0")
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
    typer.Option(help="Budget: median milliseconds of one inference.", callback=_positive),
]
MemoryMb = Annotated[
    float | None,
    typer.Option(help="Budget: peak resident memory of the runner.", callback=_positive),
]
SizeMb = Annotated[
    float | None,
    typer.Option(help="Budget: model, runner, libraries, manifest.", callback=_positive),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(help="Budget: points of accuracy that may be lost.", callback=_not_negative),
]
Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.")]


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
        Path | None, typer.Argument(metavar="[RECIPE]", help="A recipe's file; else ./recipe.py.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="A target's name or TOML file.")] = None,
    runtime: Annotated[
        Literal["auto", "executorch"] | None, typer.Option(help="The on-device runtime.")
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "int8"] | None,
        typer.Option(help="auto: int8 if it loses no more than --max-drop, else fp32."),
    ] = None,
    latency_ms: LatencyMs = None,
    memory_mb: MemoryMb = None,
    size_mb: SizeMb = None,
    max_drop: MaxDrop = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Random numbers start here.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Measure on this device: local is this host.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What a deployment is called.")] = None,
    out: Annotated[
        Path | None, typer.Option("--output", help="The bundle's folder; else ./build/NAME-TARGET.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compress a model until it fits, package it with its runner, and say whether it fits."""
    import edgekit
    from edgekit import settings
    from edgekit.cli.progress import make_progress
    from edgekit.report.text import render_verdict

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
            "seed": seed,
            "device": device,
            "name": name,
            "output": str(out) if out else None,
        }
    )
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
        seed=settings.pick(layers, "seed", 0),
        device=settings.pick(layers, "device"),
        name=settings.pick(layers, "name"),
        output=settings.pick(layers, "output"),
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
    """Verify every file of a bundle and hold it against its budgets."""
    import edgekit
    from edgekit.report.text import render_verdict

    document = edgekit.check(
        bundle, latency_ms=latency_ms, memory_mb=memory_mb, size_mb=size_mb, max_drop=max_drop
    )
    output.emit(document.to_json() if output.json else render_verdict(document))
    raise typer.Exit(document.exit_code)


@app.command()
def bench(
    bundle: Bundle,
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="local is this host.")],
    threads: Annotated[int | None, typer.Option(min=1, max=256, help="Else the target's.")] = None,
    runs: Annotated[int, typer.Option(min=1, max=1_000_000, help="Timed runs.")] = 60,
    warmup: Annotated[int, typer.Option(min=0, max=1_000_000, help="Runs before them.")] = 5,
    timeout: Annotated[
        float | None,
        typer.Option(help="Seconds that one process of the runner may take.", callback=_positive),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure what a bundle really does on a device."""
    import edgekit
    from edgekit.cli.progress import make_progress
    from edgekit.report.text import render_bench

    document = edgekit.bench(
        bundle,
        device,
        threads=threads,
        runs=runs,
        warmup=warmup,
        timeout_s=timeout,
        progress=make_progress(output.quiet),
    )
    output.emit(document.to_json() if output.json else render_bench(document))
    raise typer.Exit(document.exit_code)


@targets_app.command("list")
def targets_list(quiet: Quiet = False, verbose: Verbose = False) -> None:
    """Every target: built in, yours, and ./targets."""
    from edgekit.report.text import render_targets
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
