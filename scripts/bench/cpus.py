"""Do other CPUs compute what this host did? One bundle's outputs on several, in steps of int8.

python scripts/bench/cpus.py BUNDLE RECIPE...   pairs of a bundle and its recipe

The golden outputs of a bundle were computed on the host that built it; a device must agree within
two steps of the output's scale. Here the same inputs run on every CPU that QEMU imitates and
XNNPACK tells apart, and on this host, and are held against this host's outputs for the bundle of
its own architecture. Prints a Markdown table. Needs qemu-user and an arm64 C library.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from edgekit.bundle.manifest import Manifest, read_manifest
from edgekit.device.base import Transport
from edgekit.device.local import LocalTransport
from edgekit.device.qemu import QemuTransport, fake_root, find_emulator, find_sysroot
from edgekit.pipeline.model.predict import Outputs, run_serving
from edgekit.pipeline.model.source import open_source
from edgekit.pipeline.model.subject import read_subject
from edgekit.progress import Silent
from edgekit.recipe.calibration_file import spread_over
from edgekit.runner.client import Installed, Serving
from edgekit.runner.staging import installed_at

CPUS = {
    "aarch64": ("cortex-a53", "cortex-a72", "cortex-a76", "neoverse-n1"),
    "x86_64": ("Nehalem", "SandyBridge", "Haswell"),
}
INPUTS = 5


def main() -> None:
    arguments = [Path(argument) for argument in sys.argv[1:]]
    if not arguments or len(arguments) % 2:
        sys.exit(__doc__)
    print("| bundle | CPU | largest difference | in steps of the output |\n|---|---|---|---|")
    references: dict[Path, list[Outputs]] = {}
    for bundle, recipe in zip(arguments[::2], arguments[1::2], strict=True):
        compare(bundle, recipe, references)


def compare(bundle: Path, recipe: Path, references: dict[Path, list[Outputs]]) -> None:
    manifest = read_manifest(bundle)
    with open_source(recipe, manifest.plan.seed) as opened:
        subject = read_subject(opened, True, Silent())
    inputs = spread_over(subject.calibration, INPUTS)
    for name, transport in transports(manifest):
        installed = at(transport, bundle, manifest)
        with Serving(installed, manifest.threads) as serving:
            run = run_serving(serving)
            outputs = [run(one) for one in inputs]
        reference = references.setdefault(recipe, outputs)
        difference, steps = furthest(manifest, outputs, reference)
        print(f"| {bundle.name} | {name} | {difference:.3g} | {steps:.2f} |", flush=True)


def transports(manifest: Manifest) -> Iterator[tuple[str, Transport]]:
    architecture = manifest.needs.architecture
    emulator, sysroot = find_emulator(architecture), find_sysroot(architecture)
    if architecture == "x86_64":
        yield "this host", LocalTransport()
    if emulator is None or sysroot is None:
        sys.exit(f"there is no QEMU or no C library for {architecture}")
    for cpu in CPUS[architecture]:
        with fake_root(sysroot, cpu, 1) as root:
            yield f"{cpu}, emulated", QemuTransport(emulator, cpu, root)


def at(transport: Transport, bundle: Path, manifest: Manifest) -> Installed:
    here = installed_at(LocalTransport(), bundle, manifest.model)
    return Installed(transport, here.runner, here.model)


def furthest(
    manifest: Manifest, outputs: Sequence[Outputs], reference: Sequence[Outputs]
) -> tuple[float, float]:
    """The largest difference, and the largest in steps: of the output's scale, or where its last
    operator is float of a 255th of its range.
    """
    differences, steps = [0.0], [0.0]
    for found, wanted in zip(outputs, reference, strict=True):
        for spec, a, b in zip(manifest.program.outputs, found, wanted, strict=True):
            difference = float((a.double() - b.double()).abs().max())
            span = float(b.max() - b.min()) / 255
            step = spec.quantization.scale if spec.quantization else span
            differences.append(difference)
            steps.append(difference / step if step else np.inf * (difference > 0))
    return max(differences), max(steps)


if __name__ == "__main__":
    main()
