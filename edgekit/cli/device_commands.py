"""The commands that use a device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.build_options import SIGNATURE
from edgekit.cli.app import app, targets_app
from edgekit.cli.output import output
from edgekit.cli.shared_flags import (
    AcceptNew,
    Bundle,
    DeployedName,
    Device,
    Json,
    Quiet,
    Verbose,
    positive,
)
from edgekit.values import RuntimeName


@app.command()
def bench(
    bundle: Annotated[
        Path,
        typer.Argument(metavar="BUNDLE|FILE", help="A bundle's folder, or a .pte or .tflite."),
    ],
    device: Device,
    threads: Annotated[
        int | None, typer.Option(min=1, max=256, help="Threads; by default the target's.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, max=1_000_000, help="Timed runs.")] = 60,
    warmup: Annotated[int, typer.Option(min=0, max=1_000_000, help="Untimed runs before.")] = 5,
    timeout: Annotated[
        float | None,
        typer.Option(help="Limit in seconds for each runner process.", callback=positive),
    ] = None,
    signature: Annotated[str | None, typer.Option(metavar="NAME", help=SIGNATURE)] = None,
    accept_new_host_key: AcceptNew = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure a bundle, or a finished .pte or .tflite, on a device."""
    import edgekit
    from edgekit.cli.progress import make_progress
    from edgekit.report.bench import render_bench

    document = edgekit.bench(
        bundle,
        device,
        threads=threads,
        runs=runs,
        warmup=warmup,
        timeout_s=timeout,
        signature=signature,
        accept_new_host_key=accept_new_host_key,
        progress=make_progress(output.quiet),
    )
    output.emit(document.to_json() if output.json else render_bench(document))
    raise typer.Exit(document.exit_code)


@app.command()
def deploy(
    bundle: Bundle,
    device: Device,
    after: Annotated[
        str | None,
        typer.Option(metavar="COMMAND", help="Run on the device once the release is current."),
    ] = None,
    accept_new_host_key: AcceptNew = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Install a bundle on a device and make it current. Only missing files are sent."""
    import edgekit
    from edgekit.cli.progress import make_progress
    from edgekit.report.device import render_deploy

    document = edgekit.deploy(
        bundle,
        device,
        after=after,
        accept_new_host_key=accept_new_host_key,
        progress=make_progress(output.quiet),
    )
    output.emit(document.to_json() if output.json else render_deploy(document))


@app.command()
def rollback(
    name: DeployedName,
    device: Device,
    accept_new_host_key: AcceptNew = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Switch back to the release before the current one."""
    import edgekit

    before, after = edgekit.rollback(name, device, accept_new_host_key=accept_new_host_key)
    output.emit(f"{name} on {device} is {after} again (it was {before})")


@app.command()
def ls(
    device: Device,
    accept_new_host_key: AcceptNew = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """List the releases on a device."""
    import edgekit
    from edgekit.report.device import render_ls

    document = edgekit.ls(device, accept_new_host_key=accept_new_host_key)
    output.emit(document.to_json() if output.json else render_ls(document))


@app.command()
def rm(
    name: DeployedName,
    device: Device,
    accept_new_host_key: AcceptNew = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Remove a deployment and all its releases from a device."""
    import edgekit

    edgekit.rm(name, device, accept_new_host_key=accept_new_host_key)
    output.emit(f"removed {name} from {device}")


@app.command()
def run(
    bundle: Bundle,
    device: Device,
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            "--input",
            metavar="[NAME=]X.npy",
            help="One per input, in the bundle's order or by name.",
        ),
    ] = None,
    outputs: Annotated[
        list[Path] | None,
        typer.Option("--output", metavar="Y.npy", help="One per output, in the bundle's order."),
    ] = None,
    accept_new_host_key: AcceptNew = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run a bundle once on a device, with .npy files."""
    import edgekit
    from edgekit.cli.progress import make_progress
    from edgekit.report.device import render_run

    document = edgekit.run(
        bundle,
        device,
        inputs=inputs or [],
        outputs=outputs or [],
        accept_new_host_key=accept_new_host_key,
        progress=make_progress(output.quiet),
    )
    output.emit(document.to_json() if output.json else render_run(document))


@app.command("eval")
def evaluate(
    bundle: Bundle,
    device: Device,
    recipe: Annotated[
        Path | None, typer.Option(help="The recipe; by default that of the build.")
    ] = None,
    accept_new_host_key: AcceptNew = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compute the recipe's metric with the model running on a device."""
    import edgekit
    from edgekit.cli.progress import make_progress
    from edgekit.report.device import render_eval

    document = edgekit.evaluate(
        bundle,
        device,
        recipe=recipe,
        accept_new_host_key=accept_new_host_key,
        progress=make_progress(output.quiet),
    )
    output.emit(document.to_json() if output.json else render_eval(document))


@targets_app.command("probe")
def targets_probe(
    device: Device,
    output_file: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE.toml", help="Write a target for this device."),
    ] = None,
    accept_new_host_key: AcceptNew = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Show what a device is: CPU, clocks, memory, system. --output writes a target file."""
    from edgekit.cli.progress import make_progress
    from edgekit.commands.probe import probe_device
    from edgekit.report.probe import render_probe

    document = probe_device(
        device,
        output_file,
        accept_new_host_key=accept_new_host_key,
        progress=make_progress(output.quiet),
    )
    output.emit(document.to_json() if output.json else render_probe(document))


@targets_app.command("calibrate")
def targets_calibrate(
    device: Device,
    runtime: Annotated[
        RuntimeName | None,
        typer.Option(
            help="The on-device runtime, else the first that is installed here; not tflite, which "
            "does not time operators."
        ),
    ] = None,
    lenient: Annotated[
        bool, typer.Option("--lenient", help="Accept a device that is not steady; record why.")
    ] = False,
    accept_new_host_key: AcceptNew = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Time small programs on a device, in up to ten minutes. Builds for such devices then predict
    latency by them. An interrupted calibration goes on where it was.
    """
    from edgekit.cli.progress import make_progress
    from edgekit.commands.calibrate import calibrate_device
    from edgekit.report.calibration import render_calibration

    document = calibrate_device(
        device,
        runtime=runtime,
        lenient=lenient,
        accept_new_host_key=accept_new_host_key,
        progress=make_progress(output.quiet),
    )
    output.emit(document.to_json() if output.json else render_calibration(document))
